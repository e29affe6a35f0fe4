"""The role `robust_rule`: what takes the place of the mean where some sites may send anything at all.

A rule sees what each site (under masks: each group of sites) changed, as one vector each, and counts all alike: rows
that a site claims to have would be a way to weigh more.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from luthier.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 1 << 18
"""Coordinates that are sorted at once."""


class RobustRule(Component):
    """The base class of rules that bear poisoned updates."""

    role: ClassVar[str] = "robust_rule"
    home: ClassVar[str] = "luthier.federated.robust_rules"

    poisoned: int = Field(default=1, ge=1)
    """Maximum number of malicious sites (under masks: groups)."""

    @abstractmethod
    def combine(self, changes: Tensor) -> Tensor:
        """(numbers,) from what each site changed (sites, numbers), in fp64; every number is finite."""

    @abstractmethod
    def count_needed(self) -> int:
        """Return the number of answers needed to tolerate `poisoned` malicious sites."""

    def check_count(self, sites: int, what: str = "sites") -> str:
        """Return why this number of sites is too small; empty when it suffices."""
        if sites < (needed := self.count_needed()):
            return f"{self.kind} bears {self.poisoned} poisoned {what} of {needed} or more, and there are {sites}"
        return ""


def measure_distances(changes: Tensor) -> Tensor:
    """(sites, sites) squared distances; they are summed over differences, so that near ones are exact."""
    import torch

    count = len(changes)
    found = torch.zeros(count, count, dtype=torch.float64)
    for one in range(count):
        for other in range(one):
            found[one, other] = found[other, one] = (changes[one] - changes[other]).square().sum()
    return found


def score_neighbors(distances: Tensor, poisoned: int) -> Tensor:
    """(sites,) the sum of each site's squared distances to its `sites - poisoned - 2` nearest others."""
    count = len(distances)
    nearest = max(1, count - poisoned - 2)
    return distances.sort(1).values[:, 1 : nearest + 1].sum(1)
