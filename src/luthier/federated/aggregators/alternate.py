"""Alternate: B is trained in one round and A in the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from luthier.federated.aggregator import DOWN, UP, AggregatedWeights, Aggregator, RoundNumbers, average_weights

if TYPE_CHECKING:
    from torch import Tensor


class AlternatingAggregator(Aggregator):
    """Train B in the first round, A in the second, and so on (RoLoRA, Chen et al., 2024): one factor is the same at all
    sites, so the mean of the other is exact, and both learn in the end."""

    kind: Literal["alternate"] = "alternate"

    def freezes(self, name: str, round_number: int) -> bool:
        """A in even rounds (from 0), B in odd ones."""
        return (UP if round_number % 2 else DOWN) in name

    def combine(self, updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> AggregatedWeights:
        """The weighted mean of the factor that moved, and of heads."""
        return AggregatedWeights(weights=average_weights(updates, shares))

    def count_numbers(self, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """Both factors go to a site, and one comes back."""
        return RoundNumbers(down + up + other, (down + up) / 2 + other)
