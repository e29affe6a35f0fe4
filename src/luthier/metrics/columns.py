"""One score of every row of a task, what the rows come to together, and two models' rows beside each other.

A row adds an amount and a weight, and the value is a function of their sums: a share or mean is amount over weight; a
perplexity is exp(-log-likelihood / units), and bits the same to the base of 2. So tasks need no metric of their own to
have intervals and paired tests.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from luthier.core.errors import DataError
from luthier.metrics.paired import Comparison, bonett_price, contrast, detectable, mcnemar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.metric import Score
    from luthier.metrics.resample import Interval

How = Literal["share", "mean", "brier", "perplexity", "bits"]
_LOWER = frozenset({"brier", "perplexity", "bits"})
_USUAL = {"mean": (0.0, 1.0), "brier": (0.0, 2.0), "perplexity": (1.0, 1000.0), "bits": (0.0, 10.0)}
"""Between what a row usually lies."""


class Scores(ABC):
    """What all rows of a task come to, and two models' rows beside each other."""

    @property
    @abstractmethod
    def each(self) -> Sequence[float]:
        """What each row comes to alone."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @property
    @abstractmethod
    def lower_is_better(self) -> bool:
        """Whether less is better."""

    @property
    def points(self) -> float:
        """How many points one is: values that run to 1 are told in hundredths."""
        return 100.0

    @abstractmethod
    def joined(self, other: Scores) -> Scores:
        """These rows followed by another's; `DataError` when those were scored otherwise."""

    @abstractmethod
    def measured(self, seed: int) -> Interval | Score:
        """The value with its 95 % interval."""

    @abstractmethod
    def against(self, name: str, other: Scores, seed: int) -> Comparison:
        """This model minus another's on the same rows."""

    def alike(self, other: Scores) -> Self:
        """The other, which was scored as this was; else `DataError`."""
        if not isinstance(other, type(self)):
            raise DataError(f"scores of two kinds cannot be put together: {self!r:.60} and {other!r:.60}")
        return other


@dataclass(frozen=True, kw_only=True)
class Column(Scores):
    """Amounts and weights, row by row."""

    how: How
    """`share`: each row is right or wrong. `mean`: amounts lie between 0 and 1; `brier`: between 0 and 2, and less is
    better. Else log-likelihoods over units."""
    amounts: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, how: How, amounts: Sequence[float], weights: Sequence[float] | None = None) -> Column:
        """A column; without weights each row counts once."""
        if not amounts:
            raise DataError("there are no rows to measure", remedy="give the task at least one row")
        if not all(math.isfinite(amount) for amount in amounts):
            raise DataError("a row has a score that is no number")
        return cls(how=how, amounts=tuple(amounts), weights=tuple(weights or [1.0] * len(amounts)))

    def __len__(self) -> int:
        return len(self.amounts)

    @property
    def each(self) -> tuple[float, ...]:
        return self.amounts

    @property
    def lower_is_better(self) -> bool:
        return self.how in _LOWER

    def joined(self, other: Scores) -> Column:
        other = self.alike(other)
        return Column.of(self.how, [*self.amounts, *other.amounts], [*self.weights, *other.weights])

    def statistics(self) -> NDArray[np.float64]:
        """(rows, 2): amount and weight."""
        import numpy as np

        return np.array([self.amounts, self.weights], dtype=np.float64).T

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """From sums (b, 2) to values (b,); 0 for no rows."""
        import numpy as np

        weight = sums[:, 1]
        mean: NDArray[np.float64] = np.divide(sums[:, 0], weight, out=np.zeros(len(weight)), where=weight > 0)
        if self.how == "perplexity":
            mean = np.exp(np.clip(-mean, -700.0, 700.0))
        elif self.how == "bits":
            mean = -mean / math.log(2)
        return mean

    def measured(self, seed: int) -> Interval:
        """The value with its 95 % interval: Wilson's for a share, else the bootstrap's (BCa)."""
        from luthier.metrics.resample import Job, intervals

        span = None if self.how == "share" else _USUAL[self.how]
        job = Job(blocks=(self.statistics(),), value=lambda sums: self.value(sums[0]), span=span)
        return intervals([job], seed=seed)[0]

    def against(self, name: str, other: Scores, seed: int) -> Comparison:
        other = self.alike(other)
        if self.how == "share":
            return paired_shares(name, self.amounts, other.amounts)
        low, high = _USUAL[self.how]
        blocks = self.statistics(), other.statistics()
        return contrast(name, blocks, self.value, width=high - low, lower_is_better=self.lower_is_better, seed=seed)


def paired_shares(name: str, a: Sequence[float], b: Sequence[float]) -> Comparison:
    """The share of right rows of one model minus another's, from 1 for each right row and 0 for each wrong one."""
    fixed = sum(mine > its for mine, its in zip(a, b, strict=True))
    broken = sum(mine < its for mine, its in zip(a, b, strict=True))
    found = bonett_price(fixed, broken, len(a))
    return Comparison(
        metric=name,
        difference=found.value,
        low=found.low,
        high=found.high,
        p=mcnemar(fixed, broken),
        test="McNemar, mid-p",
        rows=len(a),
        fixed=fixed,
        broken=broken,
        detectable=detectable(found.standard_error),
        note=found.note,
    )
