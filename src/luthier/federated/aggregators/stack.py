"""Stack: the sites' factors side by side are the sum of their products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.federated.aggregator import (
    AggregatedWeights,
    Aggregator,
    RoundNumbers,
    average_weights,
    list_modules,
    split_others,
    stack_products,
)

if TYPE_CHECKING:
    from torch import Tensor


class StackAggregator(Aggregator):
    """Add the products of all sites to the base, as factors side by side, and begin each round with a fresh adapter
    (FLoRA, Wang et al., 2024). It is exact; what goes to each site grows with sites and rounds, and the coordinator
    sees the factors of every site."""

    kind: Literal["stack"] = "stack"
    linear: ClassVar[bool] = False
    restarts: ClassVar[bool] = True

    def combine(self, updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> AggregatedWeights:
        """The mean of heads; the products go to the base."""
        modules = list_modules(updates[0])
        others = average_weights([split_others(update) for update in updates], shares)
        base = {name: stack_products(updates, shares, *pair) for name, pair in modules.items()}
        return AggregatedWeights(weights=others, base=base)

    def count_numbers(self, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """A site receives, besides the adapter, all sites' factors of the previous round."""
        return RoundNumbers((sites + 1) * (down + up) + other, down + up + other)
