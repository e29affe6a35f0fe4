"""The usual mean of both factors, which is not the mean of their products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.federated.aggregator import (
    AggregatedWeights,
    Aggregator,
    Factors,
    RoundNumbers,
    average_weights,
    compute_product_error,
    list_modules,
    stack_products,
)

if TYPE_CHECKING:
    from torch import Tensor


class FactorsAggregator(Aggregator):
    """Take the mean of A and of B apart, as FedIT and most tools do (Zhang et al., 2024): biased, since the product of
    means is not the mean of products. How far it is off is logged in each round."""

    kind: Literal["factors"] = "factors"
    exact: ClassVar[bool] = False

    def combine(self, updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> AggregatedWeights:
        """The weighted mean of each factor, with its error."""
        weights = average_weights(updates, shares)
        pairs = (
            (Factors(weights[up], weights[down]), stack_products(updates, shares, down, up))
            for down, up in list_modules(weights).values()
        )
        return AggregatedWeights(weights=weights, error=compute_product_error(pairs))

    def count_numbers(self, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """Both factors, both ways."""
        return RoundNumbers(down + up + other, down + up + other)
