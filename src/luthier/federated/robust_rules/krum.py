"""Krum: the sites closest to their nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.federated.robust_rule import RobustRule, measure_distances, score_neighbors

if TYPE_CHECKING:
    from torch import Tensor


class KrumRule(RobustRule):
    """Score each site by its squared distances to its nearest others, and take the mean of the `keep` sites with the
    smallest scores (Multi-Krum, Blanchard et al., 2017); with `keep: 1` it is Krum."""

    kind: Literal["krum"] = "krum"

    keep: int | None = Field(default=None, ge=1)
    """How many sites the mean is taken of; all but the poisoned ones when not given."""

    def combine(self, changes: Tensor) -> Tensor:
        """The mean of the sites that score best."""
        scores = score_neighbors(measure_distances(changes), self.poisoned)
        keep = min(self.keep or len(changes) - self.poisoned, len(changes))
        return changes[scores.argsort(stable=True)[:keep]].mean(0)

    def count_needed(self) -> int:
        """Twice as many and three, by the paper's proposition 4.2."""
        return 2 * self.poisoned + 3
