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

    trim: bool = False
    """Leave out the `poisoned` changes that lie farthest from the median, and take the median of the rest. Without it
    every poisoned change pulls as hard as an honest one does, however far it lies: where sites differ much, the result
    is bounded, and yet a good part of the way is lost."""

    def combine(self, changes: Tensor) -> Tensor:
        """The median of all changes, or of those that are left."""
        found = find_geometric_median(changes)
        if not self.trim:
            return found
        near = (changes - found).norm(dim=1).argsort(stable=True)[: len(changes) - self.poisoned]
        return find_geometric_median(changes[near.sort().values])

    def count_needed(self) -> int:
        """More than twice as many."""
        return 2 * self.poisoned + 1


def find_geometric_median(changes: Tensor) -> Tensor:
    """(numbers,) means of changes (sites, numbers) weighed by one over the distance, again and again (Weiszfeld)."""
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
