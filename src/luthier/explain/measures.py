"""Means over rows with their 95 % intervals, as every explanation reports them."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.artifacts.explanation import MeasureOverRows


def compute_mean(values: Sequence[float], seed: int, counts: Sequence[float] | None = None) -> MeasureOverRows:
    """Return the mean of rows' values; with `counts`, the ratio of the sums of values and counts."""
    import numpy as np

    from luthier.metrics.intervals import IntervalJob, compute_intervals
    from luthier.metrics.kinds.answers import ratio_of_sums

    block = np.array(list(zip(values, counts or [1.0] * len(values), strict=True)))
    width = max(1.0, *(abs(value / count) for value, count in block if count), 0.0)
    job = IntervalJob(blocks=(block,), value=lambda sums: ratio_of_sums(sums[0]), span=(-width, width))
    (interval,) = compute_intervals([job], seed=seed)
    return MeasureOverRows(value=interval.value, low=interval.low, high=interval.high, rows=len(values))


def compute_share(right: int, rows: int) -> MeasureOverRows:
    """A share of rows with Wilson's interval."""
    from luthier.metrics.intervals import wilson_interval

    low, high = wilson_interval(right, rows)
    return MeasureOverRows(value=right / rows, low=low, high=high, rows=rows)


def exact_measure(value: float, rows: int = 0) -> MeasureOverRows:
    """A number that was computed, not sampled."""
    return MeasureOverRows(value=value, low=value, high=value, rows=rows)
