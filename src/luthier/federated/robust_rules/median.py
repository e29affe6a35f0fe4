"""The median of each number over the sites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.federated.robust_rule import COLUMNS, RobustRule

if TYPE_CHECKING:
    from torch import Tensor


class MedianRule(RobustRule):
    """Take the median of each number over the sites (Yin et al., 2018): right while more than half are honest. Of an
    even number of sites, the mean of the two in the middle."""

    kind: Literal["median"] = "median"

    def combine(self, changes: Tensor) -> Tensor:
        """Half-way through the sorted values of each number."""
        import torch

        count = len(changes)
        parts = []
        for some in torch.split(changes, COLUMNS, 1):
            ordered = some.sort(0).values
            parts.append((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)
        return torch.cat(parts)

    def count_needed(self) -> int:
        """More than twice as many."""
        return 2 * self.poisoned + 1
