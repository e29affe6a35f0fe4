"""Confidence sequences: true at every look, unlike a plain interval that is looked at again and again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.metrics.intervals import wilson_interval
from luthier.metrics.unpaired import confidence_sequence


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_bounds_only_narrow_and_count_what_came(values: list[float]) -> None:
    found = confidence_sequence(values)
    assert [bounds.values for bounds in found] == list(range(1, len(values) + 1))
    assert found[-1].mean == pytest.approx(sum(values) / len(values))
    for one, next_one in itertools.pairwise(found):
        assert next_one.low >= one.low
        assert next_one.high <= one.high
    assert found[0].low >= 0
    assert found[0].high <= 1


def test_the_first_bounds_by_hand() -> None:
    logs = math.log(40)
    bet = min(math.sqrt(2 * logs / (0.25 * math.log(2))), 0.5)
    penalty = (1 - 0.5) ** 2 * (-math.log(1 - bet) - bet)
    (found,) = confidence_sequence([1.0])
    assert found.low == pytest.approx(max(0.0, 1 - (logs + penalty) / bet))
    assert found.high == 1.0


def test_values_outside_are_refused() -> None:
    with pytest.raises(ValueError, match=r"value 2 is 1\.5"):
        confidence_sequence([0.5, 1.5])


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_it_is_true_at_all_looks_while_a_plain_interval_is_not(share: float) -> None:
    chance = np.random.default_rng(1)
    wrong = peeked = 0
    for _ in range(200):
        came = (chance.random(300) < share).astype(float).tolist()
        found = confidence_sequence(came)
        wrong += found[-1].low > share or found[-1].high < share
        right = np.cumsum(came)
        looks = [wilson_interval(float(right[n - 1]), n) for n in range(10, 301, 5)]
        peeked += any(low > share or high < share for low, high in looks)
    assert wrong <= 10
    assert peeked > 30


def test_a_clear_preference_is_seen_soon_and_steady_values_are_known_better() -> None:
    chance = np.random.default_rng(2)
    coins = confidence_sequence((chance.random(400) < 0.8).astype(float).tolist())
    steady = confidence_sequence((0.8 + 0.02 * chance.standard_normal(400)).clip(0, 1).tolist())
    assert all(next(bounds.values for bounds in found if bounds.low > 0.5) < 60 for found in (coins, steady))
    widths = [found[-1].high - found[-1].low for found in (coins, steady)]
    assert widths[1] < widths[0] / 2 < 0.1
