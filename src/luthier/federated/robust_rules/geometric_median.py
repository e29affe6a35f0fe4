"""The point whose distances to all sites' changes add up to the least."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.federated.robust_rule import RobustRule

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 200
"""Steps at most; each brings the sum of distances down."""
CLOSE = 1e-10
"""A step that is shorter than this share of the spread is the last one."""


class GeometricMedianRule(RobustRule):
    """Take the point whose distances to all sites' changes add up to the least (RFA, Pillutla et al., 2022), by
    Weiszfeld's method: right while more than half are honest, and, unlike the median, the same in any coordinates."""

    kind: Literal["geometric_median"] = "geometric_median"

    def combine(self, changes: Tensor) -> Tensor:
        """Means weighed by one over the distance, again and again."""
        found = changes.mean(0)
        spread = float((changes - found).norm(dim=1).max())
        for _ in range(ROUNDS):
            distances = (changes - found).norm(dim=1).clamp_min(1e-12 * spread or 1e-300)
            weights = 1 / distances
            moved = (weights / weights.sum()) @ changes
            far = float((moved - found).norm())
            found = moved
            if far <= CLOSE * spread:
                break
        return found

    def count_needed(self) -> int:
        """More than twice as many."""
        return 2 * self.poisoned + 1
