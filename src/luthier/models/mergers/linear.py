"""Linear merging: the changes are weighted and added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.models.merge import Merger, scale_changes

if TYPE_CHECKING:
    from torch import Tensor


class LinearMerger(Merger):
    """Add the weighted changes: task arithmetic (Ilharco et al., 2023); equal shares make a model soup (Wortsman et
    al., 2022), the first thing to try for models that were tuned on parts of the same work."""

    kind: Literal["linear"] = "linear"

    def combine(self, changes: Tensor, weights: Tensor, seed: int) -> Tensor:
        """Return the weighted sum."""
        return scale_changes(changes, weights).sum(dim=0)

    def share(self, number: int) -> float:
        """Return the mean's weight."""
        return 1 / number
