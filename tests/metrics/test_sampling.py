"""Shares from unequal chances: no bias, and intervals that hold the truth as often as they say."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest

from luthier.metrics.intervals import wilson_interval
from luthier.metrics.sampling import SampledItem, ShareEstimate, estimate_weighted_share


def _estimates(
    count: int, right: float, told: float, chance: float, answered: dict[str, float], draws: int = 500
) -> list[ShareEstimate]:
    """Traffic of which a share is right, whose failures users tell of more often, drawn and answered in part."""
    random_state = random.Random(1)
    found = []
    for _ in range(draws):
        items = []
        for _ in range(count):
            value = float(random_state.random() < right)
            is_told = random_state.random() < (0.02 if value else told)
            probability, group = (1.0, "told") if is_told else (chance, "chance")
            if random_state.random() < probability:
                known = random_state.random() < answered[group]
                items.append(SampledItem(probability, value if known else None, group))
        estimate = estimate_weighted_share(items)
        if estimate is not None:
            found.append(estimate)
    return found


@pytest.mark.parametrize(
    ("count", "right", "told", "chance", "answered"),
    [
        (2000, 0.9, 0.3, 0.05, {"told": 1.0, "chance": 1.0}),
        (2000, 0.9, 0.3, 0.05, {"told": 0.9, "chance": 0.4}),
        (3000, 0.9, 0.6, 0.10, {"told": 0.3, "chance": 0.9}),
        (1000, 0.98, 0.3, 0.10, {"told": 1.0, "chance": 1.0}),
        (400, 0.8, 0.0, 1.00, {"told": 1.0, "chance": 1.0}),
    ],
)
def test_it_is_unbiased_and_its_interval_holds(
    count: int, right: float, told: float, chance: float, answered: dict[str, float]
) -> None:
    found = _estimates(count, right, told, chance, answered)
    values = [one.value for one in found]
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert abs(statistics.mean(values) - right) < max(3.5 * error, 0.002)
    covered = statistics.mean(one.low <= right <= one.high for one in found)
    assert 0.90 <= covered <= 0.985
    naive = [one for one in found if one.unseen == 0]
    assert len(naive) > 0.95 * len(found)


def test_the_plain_share_of_what_is_reviewed_would_be_far_off() -> None:
    """The same traffic as above: two thirds of what is reviewed was told of because it was wrong."""
    random_state, wrong, every = random.Random(3), 0, 0
    for _ in range(20_000):
        value = random_state.random() < 0.9
        if random_state.random() < (0.02 if value else 0.3) or random_state.random() < 0.05:
            wrong, every = wrong + (not value), every + 1
    assert wrong / every > 0.3, "0.1 is right"


def test_even_chances_are_the_plain_share() -> None:
    items = [SampledItem(0.1, float(index < 30)) for index in range(40)]
    found = estimate_weighted_share(items)
    assert found is not None
    assert found.value == pytest.approx(0.75)
    assert found.size == pytest.approx(400)
    assert found.effective == pytest.approx(39)
    assert (found.low, found.high) == pytest.approx(wilson_interval(0.75 * 39, 39, 2.0227), abs=1e-4)


def test_its_variance_is_that_of_the_jackknife() -> None:
    """The delete-one jackknife of the ratio, by numpy, is the same to first order."""
    random_state = np.random.default_rng(5)
    probabilities = random_state.choice([0.02, 0.1, 0.5, 1.0], 600)
    values = (random_state.random(600) < 0.3).astype(float)
    found = estimate_weighted_share(SampledItem(p, v) for p, v in zip(probabilities, values, strict=True))
    weights = 1 / probabilities
    total, with_values = weights.sum(), (weights * values).sum()
    without = (with_values - weights * values) / (total - weights)
    variance = 599 / 600 * ((without - without.mean()) ** 2).sum()
    assert found is not None
    assert found.value == pytest.approx(with_values / total)
    assert found.value * (1 - found.value) / found.effective == pytest.approx(variance, rel=0.03)


def test_people_who_ask_more_often_do_not_make_it_surer() -> None:
    alone = estimate_weighted_share(SampledItem(0.5, float(at % 3 == 0), cluster=f"u{at}") for at in range(30))
    often = estimate_weighted_share(
        SampledItem(0.5, float(at % 3 == 0), cluster=f"u{at}") for at in range(30) for _ in range(10)
    )
    assert alone is not None
    assert often is not None
    assert often.high - often.low == pytest.approx(alone.high - alone.low, rel=0.02)


def test_what_nobody_answered_is_said() -> None:
    assert estimate_weighted_share([]) is None
    assert estimate_weighted_share([SampledItem(1, None)]) is None
    found = estimate_weighted_share([SampledItem(1, 1.0, "a"), SampledItem(0.5, None, "b")])
    assert found is not None
    assert found.unseen == pytest.approx(2 / 3)
    assert found.low < 0.3, "one answer says little"
    assert found.high == 1
