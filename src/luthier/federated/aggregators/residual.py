"""Residual: the mean of the factors, and what its product misses goes to the base as factors of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.federated.aggregator import (
    AggregatedWeights,
    Aggregator,
    Factors,
    RoundNumbers,
    average_weights,
    list_modules,
    stack_products,
)

if TYPE_CHECKING:
    from torch import Tensor


class ResidualAggregator(Aggregator):
    """Take the mean of A and of B apart, and add what their product misses to the base (FedEx-LoRA, Singhal et al.,
    2025). It is exact. What is left over travels as factors, side by side, and never as a whole weight."""

    kind: Literal["residual"] = "residual"
    linear: ClassVar[bool] = False

    def combine(self, updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> AggregatedWeights:
        """The weighted mean of each factor; the rest of the sum of products goes to the base."""
        weights = average_weights(updates, shares)
        base = {}
        for name, (down, up) in list_modules(weights).items():
            minus = Factors(-weights[up].double(), weights[down].double())
            base[name] = stack_products(updates, shares, down, up).add(minus)
        return AggregatedWeights(weights=weights, base=base)

    def count_numbers(self, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """A site receives, besides the adapter, all sites' factors and their mean of the previous round."""
        return RoundNumbers((sites + 2) * (down + up) + other, down + up + other)
