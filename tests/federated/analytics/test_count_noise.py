"""Noise in counts is whole numbers drawn exactly, and what is told of it is what other accountants say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from luthier.federated.analytics import worker
from luthier.federated.analytics.run import find_count_noise
from luthier.federated.messaging.messages import CountPrivacy
from luthier.federated.privacy import (
    COUNT_UNITS,
    LEAST_DEVIATION,
    add_count_noise,
    find_name_threshold,
    find_share_deviation,
)
from luthier.federated.queries.schema import SchemaQuery
from luthier.tune.privacy.accountant import LEAST_NOISE, PrivacyAccount
from luthier.tune.privacy.noise import NoiseKey

INTERVAL = 1e-5
DP_ACCOUNTING = [
    (0.5, 1, 1e-5, 9.973263491769526),
    (1.0, 1, 1e-5, 4.372239241824782),
    (1.5, 4, 1e-6, 6.797530952163764),
    (6.0, 12, 1e-6, 2.64072907542406),
    (20.0, 30, 5e-7, 1.2116163964774633),
    (12.5, 40, 1e-5, 2.019688576515454),
]
"""ε of so many histograms with noise by Google's dp-accounting 0.6: `from_discrete_gaussian_mechanism` of the deviation
that is drawn, where one row moves a histogram by `COUNT_UNITS`, on a grid of `INTERVAL`. For this mechanism it rounds
each loss up to the grid, so that what it says is too much by so many intervals at most."""


@pytest.mark.parametrize(("noise", "histograms", "delta", "epsilon"), DP_ACCOUNTING)
def test_what_is_told_is_that_of_dp_accounting_and_never_below(
    noise: float, histograms: int, delta: float, epsilon: float
) -> None:
    told = PrivacyAccount.of(noise, 1.0, histograms).epsilon(delta)
    assert epsilon - histograms * INTERVAL <= told <= epsilon * 1.005


def density(noise: float, reach: int) -> np.ndarray[Any, Any]:
    """Probabilities of -reach … reach rows of noise, after they were rounded."""
    deviation = find_share_deviation(noise, COUNT_UNITS, 1)
    units = np.arange(-(reach * COUNT_UNITS) - COUNT_UNITS // 2, reach * COUNT_UNITS + COUNT_UNITS // 2)
    chances = np.exp(-(units.astype(float) ** 2) / (2.0 * deviation**2)).reshape(2 * reach + 1, COUNT_UNITS).sum(1)
    return np.asarray(chances / chances.sum())


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
def test_the_exact_loss_of_a_rounded_count_is_never_above_what_is_told(noise: float) -> None:
    chances = density(noise, math.ceil(9 * noise) + 2)
    moved, still = np.append(0.0, chances), np.append(chances, 0.0)
    account = PrivacyAccount.of(noise, 1.0, 1)
    for epsilon in (0.1, 0.5, 1.0, 3.0):
        exact = np.maximum(moved - math.exp(epsilon) * still, 0).sum()
        assert exact <= account.delta(epsilon) + 1e-12


def test_noise_is_drawn_as_its_density_says() -> None:
    many, reach = 40_000, 8
    drawn = np.array(add_count_noise([5] * many, 1.7, NoiseKey(b"k"), "x")) - 5
    seen = np.array([(drawn == value).sum() for value in range(-reach, reach + 1)])
    expected = density(1.7, reach) * seen.sum()
    common = expected > 5
    assert seen.sum() >= many - 2
    assert chisquare(seen[common], expected[common] * seen[common].sum() / expected[common].sum()).pvalue > 0.01
    assert add_count_noise([], 1.7, NoiseKey(b"k"), "x") == []


def test_counts_stay_whole_however_large_they_are() -> None:
    [large] = add_count_noise([1 << 47], 3.0, NoiseKey(b"k"), "x")
    assert abs(large - (1 << 47)) < 30
    assert find_share_deviation(LEAST_NOISE, COUNT_UNITS, 1) > LEAST_DEVIATION, "the noise is never less than it says"


@pytest.mark.parametrize("noise", [0.3, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_a_name_of_one_row_passes_with_the_chance_that_is_told(noise: float, delta: float) -> None:
    threshold, reach = find_name_threshold(noise, delta), math.ceil(12 * noise) + 4
    chances = density(noise, reach)
    passing = float(chances[reach + threshold - 1 :].sum())  # one row with noise of threshold - 1 or more
    assert passing <= delta
    assert float(chances[reach + threshold - 3 :].sum()) > delta, "and the threshold is hardly higher than needed"


def test_a_site_draws_by_the_system_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {tuple(worker._add_noise([100] * 20, 10.0)) for _ in range(3)}
    assert len(found) == 3
    monkeypatch.setattr(worker.os, "urandom", lambda count: b"7" * count)
    assert worker._add_noise([100] * 20, 10.0) == worker._add_noise([100] * 20, 10.0)


def test_all_answers_together_keep_the_promise() -> None:
    privacy, query = CountPrivacy(epsilon=2.0, delta=1e-6), SchemaQuery()
    noise, histograms = find_count_noise(privacy, (query,)), worker.count_steps(query)
    assert PrivacyAccount.of(noise, 1.0, histograms).epsilon(5e-7) <= 2.0
    assert PrivacyAccount.of(noise - 0.01, 1.0, histograms).epsilon(5e-7) > 2.0
