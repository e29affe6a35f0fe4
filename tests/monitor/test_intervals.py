"""Numbers and intervals against numpy, scipy and statsmodels."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from luthier.monitor.evaluator import estimate_mean, estimate_quantile, estimate_rate, estimate_share
from luthier.monitor.signal import SignalRow, WindowSpan

SPAN = WindowSpan(60.0, 10)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.95, 1.0])
def test_quantiles_are_numpys(count: int, part: float) -> None:
    values = sorted(random.Random(count).gauss(0, 1) for _ in range(count))
    found = estimate_quantile(values, part, SPAN)
    assert found.value == pytest.approx(np.quantile(values, part))
    assert found.low <= found.value <= found.high


def test_the_interval_of_a_quantile_covers_it() -> None:
    chance = random.Random(0)
    truth = float(stats.norm.ppf(0.9))
    hits = 0
    for _ in range(400):
        found = estimate_quantile(sorted(chance.gauss(0, 1) for _ in range(300)), 0.9, SPAN)
        hits += found.low <= truth <= found.high
    assert hits / 400 > 0.92


def test_a_mean_has_students_interval() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    found = estimate_mean(values, SPAN)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((3.75, low, high))


def test_a_rate_has_garwoods_interval() -> None:
    from statsmodels.stats.rates import confint_poisson

    found = estimate_rate(WindowSpan(60.0, 12))
    low, high = confint_poisson(12, 60, method="exact-c")
    assert (found.value, found.low, found.high) == pytest.approx((0.2, low, high))
    assert estimate_rate(WindowSpan(60.0, 0)).low == 0.0


def test_a_share_has_wilsons_interval() -> None:
    from statsmodels.stats.proportion import proportion_confint

    found = estimate_share([SignalRow(n, float(n < 3), "") for n in range(20)], WindowSpan(60.0, 20))
    low, high = proportion_confint(3, 20, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((0.15, low, high))
