"""The mean of each number without its extremes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.federated.robust_rule import COLUMNS, RobustRule

if TYPE_CHECKING:
    from torch import Tensor


class TrimmedMeanRule(RobustRule):
    """Leave out the `poisoned` smallest and as many largest values of each number, and take the mean of the rest (Yin
    et al., 2018)."""

    kind: Literal["trimmed_mean"] = "trimmed_mean"

    def combine(self, changes: Tensor) -> Tensor:
        """Return the mean of the remaining values."""
        import torch

        count = len(changes)
        parts = [
            some.sort(0).values[self.poisoned : count - self.poisoned].mean(0)
            for some in torch.split(changes, COLUMNS, 1)
        ]
        return torch.cat(parts)

    def count_needed(self) -> int:
        """More than twice as many."""
        return 2 * self.poisoned + 1
