"""What the models of a search scored on the same rows, each trained by several seeds, and how two of them differ.

A metric of several seeds is the mean of the metric of each: where it is a mean over rows, that is the mean of rows
whose seeds were averaged first. Rows are resampled and swapped with all their seeds together, by the functions with
which evaluations are compared (`luthier.metrics.paired`); a single seed is compared as evaluations are, to the digit.

Rows alone do not tell what another seed would give. Where there are several, the variance between them is pooled over
all models; what rows account for is taken off (their interaction with seeds, by the jackknife), and the rest widens the
interval and raises p by Student's t with Satterthwaite's degrees of freedom.

Efron and Stein 1981, Ann. Stat. 9 (jackknife); Satterthwaite 1946, Biometrics Bull. 2; Bouthillier et al. 2021, MLSys
(variance of seeds and rows in benchmarks).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, TypeVar

from luthier.core.errors import DataError
from luthier.metrics.columns import compare_paired_accuracy
from luthier.metrics.metric import EvalPredictions, Metric, measure_all
from luthier.metrics.paired import (
    Z95,
    PairedComparison,
    compare_paired,
    compare_row_statistics,
    minimum_detectable_difference,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block, Interval, IntervalJob
    from luthier.metrics.metric import MetricResult
    from luthier.metrics.paired import OfSums

    Rows = Sequence[float] | NDArray[np.float64]

PLAIN = "plain"
"""The key of the plain baseline; the others are trials."""
Key = int | str
AnyKey = TypeVar("AnyKey", bound=Key)


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Statistics of the same rows for each model and seed; make it with `of_rows` or `of_answers`."""

    metric: str
    lower_is_better: bool
    span: tuple[float, float]
    """Usual range of a row's score."""
    value: OfSums
    """From summed statistics of one seed, (b, k), to values, (b,)."""
    blocks: Mapping[Key, tuple[Block, ...]]
    """By model, of each seed: (rows, k), or (clusters, k) where rows hang together."""
    answers: Mapping[Key, EvalPredictions] = field(default_factory=dict)
    """Answers of models with one seed, where known."""
    measured: Metric | None = None
    fixed: frozenset[Key] = frozenset({PLAIN})
    """Models that another seed would not change: they have one, and no variance of seeds."""

    @classmethod
    def of_rows(
        cls,
        metric: str,
        scores: Mapping[AnyKey, Sequence[Rows]],
        *,
        clusters: Sequence[str] | None = None,
        lower_is_better: bool = False,
        span: tuple[float, float] = (0.0, 1.0),
        fixed: Iterable[Key] = (),
    ) -> ScoreTable:
        """A metric that is a mean over rows: by model, for each seed the score of each row, in one order."""
        import numpy as np

        from luthier.metrics.intervals import sum_by_cluster

        blocks: dict[Key, tuple[Block, ...]] = {}
        for key, seeds in scores.items():
            columns = [np.asarray(rows, dtype=np.float64) for rows in seeds]
            _check(columns, key)
            stacked = [np.stack([rows, np.ones(len(rows))], axis=1) for rows in columns]
            blocks[key] = tuple(sum_by_cluster(block, clusters) for block in stacked)
        _check_shapes(blocks)
        return cls(
            metric=metric,
            lower_is_better=lower_is_better,
            span=span,
            value=_mean,
            blocks=blocks,
            fixed=frozenset({PLAIN, *fixed}),
        )

    @classmethod
    def of_answers(
        cls, metric: Metric, answers: Mapping[AnyKey, Sequence[EvalPredictions]], *, fixed: Iterable[Key] = ()
    ) -> ScoreTable:
        """Any metric: by model, each seed's answers to the same rows; rows without a number for one are left out."""
        from luthier.metrics.intervals import sum_by_cluster

        names = [(key, at) for key, seeds in answers.items() for at in range(len(seeds))]
        each = _counted_for_all(metric, [answers[key][at] for key, at in names])
        together = each[0]
        for predictions in each[1:]:
            together = together.joined(predictions)
        statistics, rows, clusters = metric.statistics(together), len(each[0]), each[0].clusters
        blocks: dict[Key, tuple[Block, ...]] = {}
        for at, (key, _) in enumerate(names):
            own = sum_by_cluster(statistics[at * rows : (at + 1) * rows], clusters)
            blocks[key] = (*blocks.get(key, ()), own)
        alone: dict[Key, EvalPredictions] = {
            key: each[names.index((key, 0))] for key, seeds in answers.items() if len(seeds) == 1
        }
        return cls(
            metric=metric.kind,
            lower_is_better=metric.better == "lower",
            span=metric.usual,
            value=metric.value,
            blocks=blocks,
            answers=alone,
            measured=metric,
            fixed=frozenset({PLAIN, *fixed}),
        )

    @property
    def trials(self) -> list[int]:
        """The trials, in order; the plain baseline is none."""
        return sorted(key for key in self.blocks if isinstance(key, int))

    @property
    def rows(self) -> int:
        """Rows, or clusters of rows, that are independent of each other."""
        return int(next(iter(self.blocks.values()))[0].shape[0])

    def seeds(self, key: Key) -> int:
        """By how many seeds a model was trained."""
        return len(self.blocks[key])

    def values(self, key: Key) -> list[float]:
        """The metric of each seed."""
        from luthier.metrics.intervals import sum_rows

        return [float(self.value(sum_rows(block))[0]) for block in self.blocks[key]]

    def mean(self, key: Key) -> float:
        """The mean of the seeds' metrics."""
        values = self.values(key)
        return sum(values) / len(values)

    def gain(self, key: Key, other: Key) -> float:
        """By how much a model is better than another: positive for the better one whatever the metric's direction."""
        difference = self.mean(key) - self.mean(other)
        return -difference if self.lower_is_better else difference

    def measure(self, key: Key, seed: int = 0) -> Interval | MetricResult:
        """A model's value with its 95 % interval over the rows; the seed draws resamples."""
        from luthier.metrics.intervals import IntervalJob, compute_intervals

        if self.measured is not None and key in self.answers:
            return measure_all([self.measured], self.answers[key], seed=seed)[0]
        job = IntervalJob(
            blocks=(_side_by_side(self.blocks[key]),), value=lambda sums: self._of_seeds(sums[0]), span=self.span
        )
        return compute_intervals([job], seed=seed)[0]

    def compare(self, key: Key, other: Key, *, seed: int = 0) -> PairedComparison:
        """A model minus another, paired by row; the seed draws resamples and permutations."""
        comparison = self._compare_rows(key, other, seed)
        variance = self.variance_by_seeds(key) + self.variance_by_seeds(other)
        return widen_interval(comparison, variance, self.seed_variance[1]) if variance > 0 else comparison

    def variance_by_seeds(self, key: Key) -> float:
        """Return the variance of a model's mean over seeds, beyond that of rows."""
        return 0.0 if key in self.fixed else self.seed_variance[0] / self.seeds(key)

    def _compare_rows(self, key: Key, other: Key, seed: int) -> PairedComparison:
        if self.measured is not None and key in self.answers and other in self.answers:
            return compare_paired(self.measured, self.answers[key], self.answers[other], seed=seed)
        mine, its = self.blocks[key], self.blocks[other]
        if len(mine) == len(its) == 1 and self._is_share():
            return compare_paired_accuracy(self.metric, mine[0][:, 0].tolist(), its[0][:, 0].tolist())
        times = math.lcm(len(mine), len(its))
        pair = _side_by_side(mine * (times // len(mine))), _side_by_side(its * (times // len(its)))
        return compare_row_statistics(
            self.metric,
            pair,
            self._of_seeds,
            width=self.span[1] - self.span[0],
            lower_is_better=self.lower_is_better,
            seed=seed,
        )

    def _is_share(self) -> bool:
        """Whether each row is right or wrong."""
        if self.measured is not None or self.value is not _mean:
            return False
        scores = [block for blocks in self.blocks.values() for block in blocks]
        return all(
            bool(((score[:, 0] == 0) | (score[:, 0] == 1)).all() and (score[:, 1] == 1).all()) for score in scores
        )

    def _of_seeds(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of the values of seeds whose statistics stand side by side."""
        width = next(iter(self.blocks.values()))[0].shape[1]
        values = [self.value(sums[:, start : start + width]) for start in range(0, sums.shape[1], width)]
        mean: NDArray[np.float64] = sum(values[1:], start=values[0]) / len(values)
        return mean

    @cached_property
    def seed_variance(self) -> tuple[float, int]:
        """The variance of the metric from seed to seed, beyond what rows account for, and its degrees of freedom;
        nothing where no trial has several seeds."""
        import numpy as np

        squares, by_rows, free = 0.0, 0.0, 0
        for trial in self.trials:
            values = np.array(self.values(trial))
            if len(values) > 1:
                squares += float(((values - values.mean()) ** 2).sum())
                by_rows += _interaction(np.stack([self._left_out((block,)) for block in self.blocks[trial]]))
                free += len(values) - 1
        return (max(0.0, (squares - by_rows) / free), free) if free else (0.0, 0)

    def values_of_resamples(self, keys: Sequence[Key], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The models' values on rows that count so often, (b, rows) to (b, models)."""
        import numpy as np

        sums = (np.asarray(weights @ _side_by_side(self.blocks[key])) for key in keys)
        return np.stack([self._of_seeds(each) for each in sums], axis=1)

    def covariance(self, keys: Sequence[Key]) -> NDArray[np.float64]:
        """Return the covariance of the models' values over the rows, (models, models), by the jackknife."""
        import numpy as np

        left_out = np.stack([self._left_out(self.blocks[key]) for key in keys])
        apart = left_out - left_out.mean(axis=1, keepdims=True)
        rows = left_out.shape[1]
        found: NDArray[np.float64] = apart @ apart.T * (rows - 1) / rows
        return found

    def _left_out(self, blocks: tuple[Block, ...]) -> NDArray[np.float64]:
        from luthier.metrics.intervals import jackknife

        job = self._job(blocks)
        return jackknife(job, job.blocks)

    def _job(self, blocks: tuple[Block, ...]) -> IntervalJob:
        from luthier.metrics.intervals import IntervalJob

        return IntervalJob(blocks=(_side_by_side(blocks),), value=lambda sums: self._of_seeds(sums[0]), span=self.span)


def widen_interval(found: PairedComparison, variance: float, free: int) -> PairedComparison:
    """A comparison that allows for the variance of seeds, too: a wider interval, and the larger p of two tests."""
    from scipy.special import stdtr

    of_rows = found.standard_error**2
    error = math.sqrt(of_rows + variance)
    degrees = _satterthwaite_degrees(of_rows, variance, found.rows, free)
    reach = compute_half_width(of_rows, variance, found.rows, free)
    p = 2 * float(stdtr(degrees, -abs(found.difference) / error))
    return replace(
        found,
        low=min(found.low, found.difference - reach),
        high=max(found.high, found.difference + reach),
        p=max(found.p, min(1.0, p)),
        test=f"{found.test}; Student's t over rows and seeds",
        detectable=minimum_detectable_difference(reach / Z95),
    )


def compute_half_width(of_rows: float, of_seeds: float, rows: int, free: int) -> float:
    """Return half the 95 % interval of a value with these variances of rows and seeds, and degrees of freedom."""
    from scipy.special import stdtrit

    quantile = float(stdtrit(_satterthwaite_degrees(of_rows, of_seeds, rows, free), 0.975))
    return quantile * math.sqrt(of_rows + of_seeds)


def _satterthwaite_degrees(of_rows: float, of_seeds: float, rows: int, free: int) -> float:
    """Satterthwaite's degrees of freedom of a sum of two variances."""
    squares = of_rows**2 / max(rows - 1, 1) + of_seeds**2 / max(free, 1)
    return (of_rows + of_seeds) ** 2 / squares if squares > 0 else float(max(rows - 1, 1))


def _interaction(left_out: NDArray[np.float64]) -> float:
    """The squares between seeds that rows account for, summed, from values without each row: (seeds, rows)."""
    apart = left_out - left_out.mean(axis=0)
    apart = apart - apart.mean(axis=1, keepdims=True)
    squares, rows = float((apart**2).sum()), int(left_out.shape[1])
    return squares * (rows - 1) / rows


def compute_mean_pair_variance(covariance: NDArray[np.float64]) -> float:
    """Half the mean variance of the difference of two models: what each has of its own."""
    pairs = list(combinations(range(len(covariance)), 2))
    apart: list[float] = [covariance[a, a] + covariance[b, b] - 2 * covariance[a, b] for a, b in pairs]
    return float(sum(apart)) / (2 * len(pairs)) if pairs else 0.0


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    mean: NDArray[np.float64] = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)
    return mean


def _side_by_side(blocks: Sequence[Block]) -> Block:
    """The statistics of several seeds, row by row: (rows, seeds * k)."""
    import numpy as np

    if len(blocks) == 1:
        return blocks[0]
    if hasattr(blocks[0], "toarray"):
        from scipy.sparse import hstack

        return hstack(blocks, format="csr")
    return np.hstack(blocks)


def _counted_for_all(metric: Metric, answers: Sequence[EvalPredictions]) -> list[EvalPredictions]:
    """Return the rows that have a number for all models."""
    if not answers:
        raise DataError("no model answered")
    first = answers[0]
    for answer in answers:
        metric.check(answer)
        if [set(row) for row in answer.references] != [set(row) for row in first.references]:
            raise DataError("the models did not answer the same rows", hint="pair them by id first")
    counted = [known for answer in answers if (known := metric.counted(answer)) is not None]
    if not counted:
        return list(answers)
    rows = [row for row, each in enumerate(zip(*counted, strict=True)) if all(each)]
    if not rows:
        raise DataError(f"no row has a number in {metric.kind} for every model")
    return [answer.select(rows) for answer in answers]


def _check(columns: Sequence[NDArray[np.float64]], key: Key) -> None:
    import numpy as np

    if not columns or any(column.ndim != 1 or not len(column) for column in columns):
        raise DataError(f"{key!r} has no scores of rows")
    if any(not np.isfinite(column).all() for column in columns):
        raise DataError(f"{key!r} has a row whose score is no number")


def _check_shapes(blocks: Mapping[Key, tuple[Block, ...]]) -> None:
    if len({block.shape for seeds in blocks.values() for block in seeds}) > 1:
        raise DataError("the models were not scored on the same rows", hint="pair them by id first")
