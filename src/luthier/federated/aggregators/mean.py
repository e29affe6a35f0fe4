"""The weighted mean of whole weights: FedAvg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.federated.aggregator import AggregatedWeights, Aggregator, RoundNumbers, average_weights

if TYPE_CHECKING:
    from torch import Tensor


class MeanAggregator(Aggregator):
    """Take the mean of whole weights, prompts and heads, each site weighed by its rows (FedAvg, McMahan et al.,
    2017)."""

    kind: Literal["mean"] = "mean"
    low_rank: ClassVar[bool] = False

    def combine(self, updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> AggregatedWeights:
        """The weighted mean of each weight."""
        return AggregatedWeights(weights=average_weights(updates, shares))

    def count_numbers(self, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """All that moves, both ways."""
        return RoundNumbers(down + up + other, down + up + other)
