"""FFA-LoRA: A stays as it began, and B alone is trained and averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from luthier.federated.aggregator import DOWN, AggregatedWeights, Aggregator, RoundNumbers, average_weights

if TYPE_CHECKING:
    from torch import Tensor


class FrozenDownAggregator(Aggregator):
    """Keep A as it began at all sites, and take the mean of B (FFA-LoRA, Sun et al., 2024): the product is linear in B,
    so the sum is exact, and half of the numbers travel."""

    kind: Literal["ffa"] = "ffa"

    def freezes(self, name: str, round_number: int) -> bool:
        """A, always."""
        return DOWN in name

    def combine(self, updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> AggregatedWeights:
        """The weighted mean of B and of heads."""
        return AggregatedWeights(weights=average_weights(updates, shares))

    def count_numbers(self, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """A goes to a site with B, since a site keeps nothing between rounds; B comes back."""
        return RoundNumbers(down + up + other, up + other)
