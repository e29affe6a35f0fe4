"""Is one model better than another on the same rows? Differences with interval and test, and what the rows can show.

The interval of a difference of proportions is Bonett and Price's, of other metrics the paired bootstrap's (BCa on the
rows of both models together, with two rows added as Bonett and Price do, or two halves as Agresti and Min do). The test
of a difference of proportions is McNemar's with the mid-p value (exact binomial on the rows that changed, counting half
of the probability of the observed table), of others a paired permutation test that swaps the two models' answers row by
row. Rows that hang together, such as turns of one conversation, are drawn and swapped together.

McNemar 1947; Fagerland, Lydersen and Laake 2013 (mid-p); Bonett and Price 2012; Agresti and Min 2005,
Stat. Med. 24; Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, RecipeError
from luthier.metrics.metric import EvalPredictions, Metric

if TYPE_CHECKING:
    from luthier.metrics.intervals import Block, Floats, Interval, IntervalJob, Method

    OfSums = Callable[[Floats], Floats]
    """From summed statistics, (b, k), to values, (b,)."""

PERMUTATIONS = 5000
DRAWN = f"paired permutation, {PERMUTATIONS:,} draws"
_MANY = 1000
"""Among more changed rows than this, two further ones would be seen nowhere."""
Z95 = 1.959963984540054
Z80 = 0.8416212335729143
"""The standard normal quantile of 80 % power."""


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Model `a` minus model `b` on the same rows, in one metric."""

    metric: str
    difference: float
    low: float
    high: float
    p: float
    """Two-sided: how often a difference at least as large comes by chance between equal models."""
    test: str
    rows: int
    fixed: int
    """Rows on which `a` does better than `b`."""
    broken: int
    """Rows on which `b` does better than `a`."""
    detectable: float
    """The smallest difference that this many rows would show with 80 % power."""
    p_holm: float | None = None
    """`p` after Holm's correction over the family in which it was reported."""
    lower_is_better: bool = False
    """Whether a difference below zero is the better one."""
    note: str = ""

    @property
    def standard_error(self) -> float:
        """Of the difference."""
        return self.detectable / (Z95 + Z80)

    def as_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {name: value for name, value in vars(self).items() if name not in ("note", "lower_is_better") or value}


def compare_paired(metric: Metric, a: EvalPredictions, b: EvalPredictions, *, seed: int = 0) -> PairedComparison:
    """Compare two models' answers to the same rows; the seed draws resamples and permutations."""
    if len(a) != len(b) or [set(row) for row in a.references] != [set(row) for row in b.references]:
        raise DataError("the two models did not answer the same rows", hint="pair them by id first")
    metric.check(a)
    metric.check(b)
    a, b, gaps = select_rows_counted_for_both(metric, a, b)
    if not len(a):
        return _nothing(metric)
    blocks = metric.together(a, b)
    fixed, broken = _flips(metric, blocks)
    interval = _difference(metric, blocks, a.clusters, seed)
    if _is_mcnemars(metric, a.clusters):
        p, test = mcnemar(fixed, broken), "McNemar, mid-p"
    else:
        p, test = _permutation(metric.value, _summed(blocks, a.clusters), seed), DRAWN
    return PairedComparison(
        metric=metric.kind,
        lower_is_better=metric.better == "lower",
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p=p,
        test=test,
        rows=len(a),
        fixed=fixed,
        broken=broken,
        detectable=minimum_detectable_difference(interval.standard_error),
        note="; ".join(filter(None, (gaps, interval.note))),
    )


def compute_paired_difference(metric: Metric, a: EvalPredictions, b: EvalPredictions, *, seed: int = 0) -> Interval:
    """Only the difference between two models with its interval, without a test."""
    a, b, _ = select_rows_counted_for_both(metric, a, b)
    return _difference(metric, metric.together(a, b), a.clusters, seed)


def select_rows_counted_for_both(
    metric: Metric, a: EvalPredictions, b: EvalPredictions
) -> tuple[EvalPredictions, EvalPredictions, str]:
    """The rows that have a number for both models, and a note of those that do not."""
    mine, its = metric.counted(a), metric.counted(b)
    if mine is None or its is None:
        return a, b, ""
    rows = [row for row, both in enumerate(zip(mine, its, strict=True)) if all(both)]
    left = len(a) - len(rows)
    gaps = f"{left:,} of {len(a):,} rows lack a number for one model and are left out" if left else ""
    return a.select(rows), b.select(rows), gaps


def _flips(metric: Metric, blocks: tuple[Block, Block]) -> tuple[int, int]:
    """On how many rows the first does better, and on how many worse."""
    sign = 1 if metric.better == "higher" else -1
    better = sign * (metric.contributions(blocks[0]) - metric.contributions(blocks[1]))
    return int((better > 1e-12).sum()), int((better < -1e-12).sum())


def _difference(metric: Metric, blocks: tuple[Block, Block], clusters: Sequence[str] | None, seed: int) -> Interval:
    from luthier.metrics.intervals import sum_rows

    if _is_mcnemars(metric, clusters):
        return bonett_price_interval(*_flips(metric, blocks), round(sum_rows(blocks[0])[0, 1]))
    width = metric.usual[1] - metric.usual[0]
    return _bootstrap(metric.value, _summed(blocks, clusters), width, seed, added=metric.added)


def _is_mcnemars(metric: Metric, clusters: Sequence[str] | None) -> bool:
    """Whether rows are right or wrong, the same ones for both models, and each for itself."""
    return metric.proportion and metric.same_rows and clusters is None


def _summed(blocks: tuple[Block, Block], clusters: Sequence[str] | None) -> tuple[Block, Block]:
    from luthier.metrics.intervals import sum_by_cluster

    return sum_by_cluster(blocks[0], clusters), sum_by_cluster(blocks[1], clusters)


def compare_row_statistics(
    name: str,
    blocks: tuple[Block, Block],
    value: OfSums,
    *,
    width: float,
    lower_is_better: bool,
    seed: int,
    method: Method = "bca",
) -> PairedComparison:
    """Compare any value of summed statistics between two models, row by row: (rows, k) of each.

    `width` is how far apart two rows can be at most, `method` how the interval is made (`Job`). `fixed` and `broken`
    count the rows of which `a`'s own statistics give the better or the worse value.
    """
    from luthier.metrics.intervals import value_per_row

    added = 0.5 if method == "t" else 1.0  # a row of a ratio of groups weighs on its own group's share
    interval = _bootstrap(value, blocks, width, seed, method, added)
    gain = value_per_row(blocks[0], value) - value_per_row(blocks[1], value)
    gain = -gain if lower_is_better else gain
    return PairedComparison(
        metric=name,
        lower_is_better=lower_is_better,
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p=_permutation(value, blocks, seed),
        test=DRAWN,
        rows=blocks[0].shape[0],
        fixed=int((gain > 1e-12).sum()),
        broken=int((gain < -1e-12).sum()),
        detectable=minimum_detectable_difference(interval.standard_error),
        note=interval.note,
    )


def _nothing(metric: Metric) -> PairedComparison:
    """What is known when no row counts for both models: nothing."""
    width = metric.usual[1] - metric.usual[0]
    return PairedComparison(
        metric=metric.kind,
        difference=0.0,
        low=-width,
        high=width,
        p=1.0,
        test="none",
        rows=0,
        fixed=0,
        broken=0,
        detectable=width,
        note="no row has a number for both models",
    )


def mcnemar(fixed: int, broken: int) -> float:
    """McNemar's two-sided mid-p value from the rows that changed; 1 when none did."""
    from scipy.stats import binom

    changed, fewer = fixed + broken, min(fixed, broken)
    if fixed == broken:
        return 1.0
    return min(1.0, float(2 * binom.cdf(fewer, changed, 0.5) - binom.pmf(fewer, changed, 0.5)))


def bonett_price_interval(fixed: int, broken: int, rows: int) -> Interval:
    """The difference of two paired proportions with Bonett and Price's adjusted 95 % interval."""
    from luthier.metrics.intervals import Interval

    value = (fixed - broken) / rows if rows else 0.0
    gained, lost = (fixed + 1) / (rows + 2), (broken + 1) / (rows + 2)
    error = math.sqrt((gained + lost - (gained - lost) ** 2) / (rows + 2))
    low, high = gained - lost - Z95 * error, gained - lost + Z95 * error
    return Interval(value=value, low=max(-1.0, min(low, value)), high=min(1.0, max(high, value)), standard_error=error)


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the given order: the chance of any false alarm in the family stays bounded."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, greatest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = greatest
    return adjusted


def adjust_comparisons_holm(family: Sequence[PairedComparison]) -> list[PairedComparison]:
    """Return the same comparisons with p values corrected for multiple testing by Holm's method."""
    adjusted = adjust_holm([comparison.p for comparison in family])
    return [replace(comparison, p_holm=p) for comparison, p in zip(family, adjusted, strict=True)]


def minimum_detectable_difference(standard_error: float) -> float:
    """The smallest true difference that would be found at the 5 % level four times out of five."""
    return (Z95 + Z80) * standard_error


def estimate_additional_rows(distance: float, standard_error: float, rows: int) -> int | None:
    """Estimate how many further rows would decide a value this far from its limit, with 80 % power; None when no number
    would.

    The standard error shrinks with the root of the rows; what is seen now is taken for the truth.
    """
    if distance == 0 or not math.isfinite(distance) or standard_error == 0:
        return None
    needed = rows * ((Z95 + Z80) * standard_error / abs(distance)) ** 2
    return max(1, math.ceil(needed - rows)) if needed < 1e12 else None


def check_signatures(a: str, b: str, what: str) -> None:
    """`RecipeError` when two numbers were not made in the same way."""
    if a != b:
        raise RecipeError(f"{what} cannot be compared: one was made as {a}, the other as {b}")


def _bootstrap(
    value: OfSums, blocks: tuple[Block, Block], width: float, seed: int, method: Method = "bca", added: float = 1.0
) -> Interval:
    from luthier.metrics.intervals import IntervalJob, compute_intervals, mark_informative_rows

    job = IntervalJob(
        blocks=blocks, value=lambda sums: value(sums[0]) - value(sums[1]), span=(-width, width), method=method
    )
    interval = compute_intervals([replace(job, blocks=_with_mirrored(job, added))], seed=seed)[0]
    observed = _value(job)
    interval = replace(interval, value=observed, low=min(interval.low, observed), high=max(interval.high, observed))
    if not interval.note or interval.value != 0:
        return interval
    rows = int(mark_informative_rows(blocks).sum())
    unchanged = bonett_price_interval(0, 0, rows)  # no row tells the models apart: as for right and wrong rows
    note = "no row tells the two apart; the interval is that of rows that are wholly right or wholly wrong"
    scaled = {name: width * getattr(unchanged, name) for name in ("low", "high", "standard_error")}
    return replace(unchanged, **scaled, note=note)


def _with_mirrored(job: IntervalJob, weight: float) -> tuple[Block, Block]:
    """Both models' rows and two more of some weight, so that few changed rows do not look surer than they are.

    They are what Bonett and Price's interval adds to right and wrong rows, for any value: a row that tells the models
    apart, as it is and with the models changed places. It is the one that moves the difference as much as the
    changed rows do (their root mean square).
    """
    import numpy as np

    from luthier.metrics.intervals import jackknife, stack_blocks

    a, b = job.blocks
    changed = np.flatnonzero(np.asarray(abs(b - a).sum(axis=1)).ravel())
    if not 0 < len(changed) <= _MANY:
        return a, b
    moves = np.abs(_value(job) - jackknife(job, job.blocks))[changed]
    order = np.argsort(moves, kind="stable")
    typical = np.sqrt((moves**2).mean()) * (1 - 1e-12)
    row = changed[order[min(int(np.searchsorted(moves[order], typical)), len(order) - 1)]]
    one, other = weight * a[[row]], weight * b[[row]]
    return stack_blocks(a, one, other), stack_blocks(b, other, one)


def _value(job: IntervalJob) -> float:
    from luthier.metrics.intervals import sum_rows

    return float(job.value([sum_rows(block) for block in job.blocks])[0])


def _permutation(value: OfSums, blocks: tuple[Block, Block], seed: int) -> float:
    """How often swapping the models' answers on a random half of the rows gives a difference at least as large."""
    import numpy as np

    from luthier.metrics.intervals import sum_rows

    a, b = blocks
    sum_a, sum_b = sum_rows(a), sum_rows(b)
    observed = abs(float(value(sum_a)[0] - value(sum_b)[0]))
    gain = b - a
    changed = np.flatnonzero(np.asarray(abs(gain).sum(axis=1)).ravel())
    if len(changed) == 0:
        return 1.0
    gain, extreme = gain[changed], 0
    for swaps in _swaps(len(changed), seed):
        moved = np.asarray(swaps @ gain)
        differences = value(sum_a + moved) - value(sum_b - moved)
        extreme += int((np.abs(differences) >= observed - 1e-12).sum())
    return (extreme + 1) / (PERMUTATIONS + 1)


def _swaps(rows: int, seed: int) -> Any:
    """Which rows are swapped, 0 or 1, (b, rows), piece by piece; drawn apart from the bootstrap's resamples."""
    import numpy as np

    random = np.random.default_rng([seed, 1])
    piece = max(1, 1_000_000 // rows)
    for start in range(0, PERMUTATIONS, piece):
        yield random.integers(0, 2, size=(min(piece, PERMUTATIONS - start), rows)).astype(np.float64)
