"""Columns of scores: one score a row, the metric over all rows, and paired differences of two models.

A row adds an amount and a weight, and the metric is a function of their sums: a share or mean is amount over weight, a
perplexity is exp(-log-likelihood / units), and bits are the same in base 2. Intervals and paired tests follow from the
sums, so a task needs no metric of its own for them. Metrics of all rows together, such as F1 or BLEU, have statistics
instead.

A metric that is no function of sums, such as an area under a curve, is linearized: its value plus the influence of each
row (infinitesimal or leave-one-out jackknife). The mean over rows is exactly the value, and its spread over resamples
is that of the metric to first order.

Efron 1982, "The Jackknife, the Bootstrap and Other Resampling Plans"; DeLong et al. 1988 for areas under ROC curves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

from luthier.core.errors import DataError
from luthier.metrics.metric import EvalPredictions, Metric, MetricResult, measure_all
from luthier.metrics.paired import (
    PairedComparison,
    bonett_price_interval,
    compare_paired,
    compare_row_statistics,
    mcnemar,
    minimum_detectable_difference,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block, Interval

How = Literal["share", "mean", "value", "brier", "perplexity", "bits"]
_LOWER = frozenset({"brier", "perplexity", "bits"})
_USUAL = {
    "share": (0.0, 1.0),
    "mean": (0.0, 1.0),
    "brier": (0.0, 2.0),
    "perplexity": (1.0, 1000.0),
    "bits": (0.0, 10.0),
}
"""Between what a row usually lies."""


class RowScores(ABC):
    """The scores of all rows of a benchmark task as one value, comparable pairwise with another model's."""

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
    def joined(self, other: RowScores) -> RowScores:
        """These rows followed by another's; `DataError` when those were scored otherwise."""

    def alike_weighted(self) -> RowScores | None:
        """The same rows with weights that add up to one, so that tasks which are joined count alike; None for scores
        that are no means."""
        return None

    @abstractmethod
    def measured(self, seed: int) -> Interval | MetricResult:
        """The value with its 95 % interval."""

    @abstractmethod
    def against(self, name: str, other: RowScores, seed: int) -> PairedComparison:
        """This model minus another's on the same rows."""

    def alike(self, other: RowScores) -> Self:
        """The other, which was scored as this was; else `DataError`."""
        if not isinstance(other, type(self)):
            raise DataError(f"scores of two kinds cannot be put together: {self!r:.60} and {other!r:.60}")
        return other


@dataclass(frozen=True, kw_only=True)
class WeightedColumn(RowScores):
    """A score and a weight for each row; the value is a weighted mean."""

    how: How
    """`share`: each row is right or wrong. `mean`: amounts lie between 0 and 1; `value`: anywhere; `brier`: between 0
    and 2, and less is better. Else log-likelihoods over units."""
    amounts: tuple[float, ...]
    weights: tuple[float, ...]
    lower: bool = False
    """Whether less is better, where `how` does not say."""

    @classmethod
    def of(
        cls, how: How, amounts: Sequence[float], weights: Sequence[float] | None = None, *, lower: bool = False
    ) -> WeightedColumn:
        """A column; without weights each row counts once."""
        if not amounts:
            raise DataError("there are no rows to measure", hint="give the task at least one row")
        if not all(math.isfinite(amount) for amount in amounts):
            raise DataError("a row has a score that is no number")
        return cls(how=how, amounts=tuple(amounts), weights=tuple(weights or [1.0] * len(amounts)), lower=lower)

    def __len__(self) -> int:
        return len(self.amounts)

    @property
    def each(self) -> tuple[float, ...]:
        return self.amounts

    @property
    def lower_is_better(self) -> bool:
        return self.how in _LOWER or self.lower

    @property
    def points(self) -> float:
        return 1.0 if self.how == "value" else 100.0

    def joined(self, other: RowScores) -> WeightedColumn:
        other = self.alike(other)
        how = self.how if self.how == other.how else "value" if "value" in (self.how, other.how) else "mean"
        amounts, weights = [*self.amounts, *other.amounts], [*self.weights, *other.weights]
        return WeightedColumn.of(how, amounts, weights, lower=self.lower)

    def alike_weighted(self) -> WeightedColumn | None:
        whole = sum(self.weights)
        if self.how not in ("share", "mean", "value", "brier") or not whole:
            return None
        scaled = ([entry / whole for entry in column] for column in (self.amounts, self.weights))
        return WeightedColumn.of("mean" if self.how == "share" else self.how, *scaled, lower=self.lower)

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
        from luthier.metrics.intervals import IntervalJob, compute_intervals

        span = None if self.how == "share" else self._span()
        job = IntervalJob(blocks=(self.statistics(),), value=lambda sums: self.value(sums[0]), span=span)
        return compute_intervals([job], seed=seed)[0]

    def against(self, name: str, other: RowScores, seed: int) -> PairedComparison:
        other = self.alike(other)
        if self.how == other.how == "share":
            return compare_paired_accuracy(name, self.amounts, other.amounts)
        low, high = self._span()
        blocks = self.statistics(), other.statistics()
        return compare_row_statistics(
            name, blocks, self.value, width=high - low, lower_is_better=self.lower_is_better, seed=seed
        )

    def _span(self) -> tuple[float, float]:
        """Between what a row usually lies."""
        if self.how in _USUAL:
            return _USUAL[self.how]
        rows = [amount / weight for amount, weight in zip(self.amounts, self.weights, strict=True) if weight] or [0.0]
        low, high = min(rows), max(rows)
        return low, max(high, low + 1e-9 * max(1.0, abs(low)))


def compare_paired_accuracy(name: str, a: Sequence[float], b: Sequence[float]) -> PairedComparison:
    """The share of right rows of one model minus another's, from 1 for each right row and 0 for each wrong one."""
    fixed = sum(mine > its for mine, its in zip(a, b, strict=True))
    broken = sum(mine < its for mine, its in zip(a, b, strict=True))
    interval = bonett_price_interval(fixed, broken, len(a))
    return PairedComparison(
        metric=name,
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p=mcnemar(fixed, broken),
        test="McNemar, mid-p",
        rows=len(a),
        fixed=fixed,
        broken=broken,
        detectable=minimum_detectable_difference(interval.standard_error),
        note=interval.note,
    )


@dataclass(frozen=True, kw_only=True)
class CorpusScores(RowScores):
    """Predictions and references that are scored together by a corpus metric."""

    metric: Metric
    answers: EvalPredictions

    @classmethod
    def of(cls, metric: Metric, predictions: Sequence[str], references: Sequence[str]) -> CorpusScores:
        """One answer and one reference a row."""
        return cls(metric=metric, answers=EvalPredictions.of(list(predictions), list(references)))

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def lower_is_better(self) -> bool:
        return self.metric.better == "lower"

    @property
    def points(self) -> float:
        return 100.0 / self.metric.usual[1]

    @property
    def each(self) -> tuple[float, ...]:
        return tuple(map(float, self.metric.contributions(self.metric.statistics(self.answers))))

    def joined(self, other: RowScores) -> CorpusScores:
        return CorpusScores(metric=self.metric, answers=self.answers.joined(self.alike(other).answers))

    def measured(self, seed: int) -> MetricResult:
        return measure_all([self.metric], self.answers, seed=seed)[0]

    def against(self, name: str, other: RowScores, seed: int) -> PairedComparison:
        comparison = compare_paired(self.metric, self.answers, self.alike(other).answers, seed=seed)
        return replace(comparison, metric=name)


class ValueWithInfluence(NamedTuple):
    """A value with each row's influence on it (jackknife or infinitesimal jackknife)."""

    value: float
    pulls: NDArray[np.float64]
    """(rows,), adding up to 0: with weights w of mean 1, the value is about value + mean(w · pulls)."""


class InfluenceMetric(Metric):
    """The base class of metrics that give each row's influence on their value, from which intervals are computed."""

    interval: ClassVar[str] = "bca95 of jackknife pulls"

    @abstractmethod
    def pulled(self, answers: EvalPredictions) -> ValueWithInfluence:
        """The value on these rows, and each row's pull."""

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        value, pulls = self.pulled(answers)
        return np.stack([value + pulls, np.ones(len(answers))], axis=1)

    def together(self, a: EvalPredictions, b: EvalPredictions) -> tuple[Block, Block]:
        return self.statistics(a), self.statistics(b)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)


def weight_at_or_above(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row, the summed weights of the rows with at least its score, its equals included."""
    import numpy as np

    _, inverse = np.unique(scores, return_inverse=True)
    return np.asarray(np.cumsum(np.bincount(inverse, weights)[::-1])[::-1][inverse])


def weight_at_or_below(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row, the summed weights of the rows with at most its score, its equals included."""
    return weight_at_or_above(-scores, weights)


def mean_hit_share(
    scores: NDArray[np.float64], hits: NDArray[np.float64], over: NDArray[np.float64]
) -> ValueWithInfluence:
    """Mean, over the rows in `over` (0 or 1), of the share of hits among the rows with at least a row's score.

    Over the hits themselves it is average precision; over all rows, with errors for hits, the area under the
    risk-coverage curve.
    """
    import numpy as np

    deep = weight_at_or_above(scores, np.ones(len(scores)))
    share = weight_at_or_above(scores, hits) / deep
    number = over.sum()
    value = float((share * over).sum() / number)
    own = over * (share - value)
    others = hits * weight_at_or_below(scores, over / deep) - weight_at_or_below(scores, over * share / deep)
    return ValueWithInfluence(value, len(scores) / number * (own + others))


def area_under_roc(scores: NDArray[np.float64], positive: NDArray[np.float64]) -> ValueWithInfluence:
    """How often a positive row has a higher score than a negative one, ties counting half."""
    import numpy as np

    negative = 1 - positive
    number, others = positive.sum(), negative.sum()
    lower = (weight_at_or_below(scores, negative) + others - weight_at_or_above(scores, negative)) / 2
    higher = (weight_at_or_above(scores, positive) + number - weight_at_or_below(scores, positive)) / 2
    value = float((lower * positive).sum() / number / others)
    pulls = np.where(positive > 0, (lower / others - value) / number, (higher / number - value) / others)
    return ValueWithInfluence(value, len(scores) * pulls)


def influence_from_jackknife(value: float, without: NDArray[np.float64]) -> ValueWithInfluence:
    """Compute each row's influence from the values with one row left out, (rows,)."""
    import numpy as np

    if len(without) < 2:
        return ValueWithInfluence(value, np.zeros(len(without)))
    return ValueWithInfluence(value, (len(without) - 1) * (without.mean() - without))
