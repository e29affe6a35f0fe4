"""Intervals: known values, coverage by simulation, and bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import kurtosis, t

from luthier.metrics.intervals import Interval, IntervalJob, Method, compute_intervals, wilson_interval
from luthier.metrics.kinds.labels import MacroF1, Mcc
from luthier.metrics.kinds.rouge import Rouge1
from luthier.metrics.metric import Metric


@given(st.integers(1, 500), st.data())
@settings(deadline=None)
def test_wilson_is_scipys(rows: int, data: st.DataObject) -> None:
    from scipy.stats import binomtest

    right = data.draw(st.integers(0, rows))
    known = binomtest(right, rows).proportion_ci(method="wilson")
    low, high = wilson_interval(right, rows)
    assert (low, high) == pytest.approx((known.low, known.high), abs=1e-9)
    assert 0 <= low <= right / rows <= high <= 1


def test_bca_is_scipys() -> None:
    """The mean of skewed rows, against scipy's BCa with many resamples."""
    from scipy.stats import bootstrap

    rows = np.random.default_rng(0).exponential(size=80)
    block = np.stack([rows, np.ones(80)], axis=1)
    found = compute_intervals(
        [IntervalJob(blocks=(block,), value=lambda sums: sums[0][:, 0] / sums[0][:, 1], span=(0, 1))], seed=1
    )[0]
    known = bootstrap((rows,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2))
    assert found.low == pytest.approx(known.confidence_interval.low, abs=0.03)
    assert found.high == pytest.approx(known.confidence_interval.high, abs=0.03)
    assert found.standard_error == pytest.approx(known.standard_error, rel=0.1)


def _mean_of(rows: np.ndarray, method: Method, span: tuple[float, float] = (0, 1)) -> Interval:
    block = np.stack([rows, np.ones(len(rows))], axis=1)
    job = IntervalJob(blocks=(block,), value=lambda sums: sums[0][:, 0] / sums[0][:, 1], span=span, method=method)
    return compute_intervals([job], seed=0)[0]


def test_logit_interval_is_students_t_of_the_logit() -> None:
    rows = np.random.default_rng(0).uniform(size=40)
    found, value = _mean_of(rows, "logit"), rows.mean()
    error = rows.std(ddof=1) / np.sqrt(40)
    half = t.ppf(0.975, 39) * error / (value * (1 - value))
    assert found.standard_error == pytest.approx(error)
    assert (found.low, found.high) == pytest.approx(tuple(expit(logit(value) + side * half) for side in (-1, 1)))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_logit_interval_at_an_end(value: float) -> None:
    found = _mean_of(np.full(30, value), "logit")
    assert (found.low, found.high) == pytest.approx(wilson_interval(30 * value, 30))
    assert "no variance" in found.note


def test_few_rows_that_decide_leave_fewer_degrees_of_freedom() -> None:
    """O'Neill's: 29 for 30 rows that are alike, here 7.9, since three of them make the spread."""
    alike = np.random.default_rng(0).uniform(size=30)
    decided = np.where(np.arange(30) < 3, 0.9, 0.1)
    free = 2 * 30 / (kurtosis(decided, fisher=False) - 27 / 29)
    for rows, degrees in ((alike, 29), (decided, free)):
        found = _mean_of(rows, "t")
        reach = (found.high - found.value) / found.standard_error
        assert reach == pytest.approx(t.ppf(0.975, degrees) * np.sqrt(30 / 29))
        assert found.value - found.low == pytest.approx(found.high - found.value)
    assert 7 < free < 9


def test_students_t_stays_within_the_span() -> None:
    rows = np.where(np.arange(8) < 1, 0.0, 1.0)
    found = _mean_of(rows, "t")
    assert found.high == 1.0
    assert found.low < 7 / 8


def test_no_variance_is_said() -> None:
    block = np.ones((30, 2))
    found = compute_intervals(
        [IntervalJob(blocks=(block,), value=lambda sums: sums[0][:, 0] / sums[0][:, 1], span=(0, 1))], seed=0
    )[0]
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(wilson_interval(30, 30)[0])
    assert "no variance" in found.note


SHARES = (0.55, 0.75, 0.85)
"""How often each of three labels is recognised."""


def _labels(seed: int, rows: int) -> tuple[list[str], list[str]]:
    chance = np.random.default_rng(seed)
    real = chance.choice(3, size=rows, p=(0.2, 0.3, 0.5))
    right = chance.random(rows) < np.array(SHARES)[real]
    said = np.where(right, real, (real + chance.integers(1, 3, rows)) % 3)
    return [f"c{number}" for number in said], [f"c{number}" for number in real]


def _words(seed: int, rows: int) -> tuple[list[str], list[str]]:
    chance = np.random.default_rng(seed)
    hits = chance.binomial(10, chance.beta(1, 3, rows))
    return [" ".join(["w"] * int(hit) + ["x"] * (10 - int(hit))) for hit in hits], [" ".join(["w"] * 10)] * rows


@pytest.mark.parametrize(
    ("metric", "drawn"), [(MacroF1(), _labels), (Mcc(), _labels), (Rouge1(), _words)], ids=["macro_f1", "mcc", "rouge1"]
)
def test_coverage(metric: Metric, drawn: object) -> None:
    """A claimed 95 % interval holds the true value about nineteen times out of twenty."""
    assert callable(drawn)
    truth = metric.measure(*drawn(10_000_000, 40_000)).value
    covered = 0
    for seed in range(200):
        score = metric.measure(*drawn(seed, 100), seed=seed)
        covered += score.low <= truth <= score.high
    assert 0.90 <= covered / 200 <= 0.985


def test_seed_decides() -> None:
    said, real = _labels(1, 100)
    one, same, other = (MacroF1().measure(said, real, seed=seed) for seed in (1, 1, 2))
    assert (one.low, one.high) == (same.low, same.high)
    assert (one.low, one.high) != (other.low, other.high)
