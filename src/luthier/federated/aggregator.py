"""The role `aggregator`: combines the weights that sites trained into the weights of the next round.

A low-rank adapter adds B A to a frozen weight. The mean of the sites' products is not the product of the mean factors,
so an aggregator declares whether its sum is exact, and which part of the sum it adds to the base.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from luthier.core.component import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from luthier.tune.technique import TechniqueBase

DOWN, UP = ".lora_A.", ".lora_B."
"""Parts of the parameter names of a low-rank product's factors: A reads the input, B writes the output."""


class Factors(NamedTuple):
    """A low-rank matrix `up @ down`."""

    up: Tensor
    """(outputs, rank)"""
    down: Tensor
    """(rank, inputs)"""

    def add(self, other: Factors) -> Factors:
        """The factors of the sum, side by side; no wider than the matrix is."""
        import torch

        up, down = torch.cat([self.up, other.up], 1), torch.cat([self.down, other.down], 0)
        return Factors(up, down).limit_rank()

    def limit_rank(self) -> Factors:
        """Return the same matrix with a rank of at most its smaller side."""
        import torch

        outputs, inputs = self.up.shape[0], self.down.shape[1]
        if self.up.shape[1] <= min(outputs, inputs):
            return self
        whole = (self.up.double() @ self.down.double()).to(self.up)
        one = torch.eye(min(outputs, inputs), dtype=whole.dtype)
        return Factors(one, whole) if outputs <= inputs else Factors(whole, one)


class GlobalWeights(NamedTuple):
    """The weights with which every site starts a round."""

    moving: Mapping[str, Tensor]
    """Trainable weights, by parameter name, in at least fp32."""
    base: Mapping[str, Factors]
    """Changes of frozen weights by earlier rounds, by module name, before the adapter's scale."""


@dataclass(frozen=True, kw_only=True)
class AggregatedWeights:
    """The result of one round."""

    weights: Mapping[str, Tensor]
    """By parameter name; names that are missing stay as they were."""
    base: Mapping[str, Factors] = field(default_factory=dict)
    """Change of the frozen weight of a module, by the module's name, before the adapter's scale."""
    error: float | None = None
    """Norm of the error of the sum of products, as a share of its norm; None where it is exact."""


class RoundNumbers(NamedTuple):
    """Numbers of four bytes that travel between the coordinator and one site in a round."""

    down: float
    up: float


class Aggregator(Component):
    """The base class of aggregators."""

    role: ClassVar[str] = "aggregator"
    home: ClassVar[str] = "luthier.federated.aggregators"
    exact: ClassVar[bool] = True
    """Whether the result is the exact sum of the sites' changes."""
    linear: ClassVar[bool] = True
    """Whether the result is a weighted mean of the sites' numbers: required for masks and for a server optimizer."""
    restarts: ClassVar[bool] = False
    """Whether each round starts with the initial adapter."""
    low_rank: ClassVar[bool] = True
    """Whether it is for low-rank adapters, or for all other techniques."""

    def refuses(self, technique: TechniqueBase) -> str:
        """Return why it cannot aggregate a technique's weights; empty when it can."""
        from luthier.tune.low_rank import LowRankTechnique

        if isinstance(technique, LowRankTechnique) != self.low_rank:
            other = "ffa, alternate, stack, residual, svd or factors" if not self.low_rank else "mean"
            kind = "low-rank factors" if not self.low_rank else "whole weights"
            return f"{technique.kind} trains {kind}, which it does not add up; take {other}"
        if self.exact and self.low_rank and technique.settings().get("use_dora"):
            return "DoRA divides by the length of each row, so no sum of factors is exact; take factors"
        return ""

    def freezes(self, name: str, round_number: int) -> bool:
        """Return whether a parameter is frozen in a round (from 0)."""
        return False

    @abstractmethod
    def combine(self, updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> AggregatedWeights:
        """The weights of all sites (each by parameter name, fp32) as one, given shares that add up to 1."""

    @abstractmethod
    def count_numbers(self, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """Return the mean count of numbers sent in a round, given those of A, of B and of other weights."""


def average_weights(updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of each weight, summed in fp64 in the order of the sites."""
    import torch

    found = {}
    for name, first in updates[0].items():
        total = torch.zeros(first.shape, dtype=torch.float64)
        for update, share in zip(updates, shares, strict=True):
            total.add_(update[name].double(), alpha=share)
        found[name] = total.to(first.dtype)
    return found


class WeightSum:
    """The weighted mean of weights that come one after another, summed in fp64: none of them is held."""

    def __init__(self) -> None:
        self.rows = 0
        self._totals: dict[str, Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def add(self, weights: Mapping[str, Tensor], rows: int) -> None:
        """Add the weights of a site with `rows` rows."""
        self.rows += rows
        for name, value in weights.items():
            if name not in self._totals:
                self._totals[name], self._dtypes[name] = value.double() * rows, value.dtype
            else:
                self._totals[name].add_(value.double(), alpha=rows)

    def mean(self) -> dict[str, Tensor]:
        """The mean, in the precision that the weights came in."""
        return {name: (total / self.rows).to(self._dtypes[name]) for name, total in self._totals.items()}


def list_modules(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The names of A and B of each adapted module, by the module's name."""
    return {name.partition(DOWN)[0]: (name, name.replace(DOWN, UP)) for name in names if DOWN in name}


def split_others(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that are no factors."""
    return {name: value for name, value in weights.items() if DOWN not in name and UP not in name}


def stack_products(updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float], down: str, up: str) -> Factors:
    """The exact weighted sum of the sites' products of one module, as factors side by side."""
    import torch

    ups = [share * update[up].double() for update, share in zip(updates, shares, strict=True)]
    downs = [update[down].double() for update in updates]
    return Factors(torch.cat(ups, 1), torch.cat(downs, 0))


def compute_product_error(pairs: Iterable[tuple[Factors, Factors]]) -> float:
    """The norm of the difference of matrices from the right ones, as a share of the right ones' norm."""
    wrong = whole = 0.0
    for found, right in pairs:
        exact = right.up @ right.down
        wrong += float((found.up.to(exact) @ found.down.to(exact) - exact).square().sum())
        whole += float(exact.square().sum())
    return float((wrong / whole) ** 0.5) if whole else 0.0
