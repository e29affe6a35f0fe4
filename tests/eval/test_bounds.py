"""Intervals of gaps between groups: groups that are alike are not told apart."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.eval.bias import bounds, gaps

ALL = ((bounds.spread, gaps.spread), (bounds.ratio, gaps.ratio), (bounds.worst, gaps.worst))


def sums(*groups: tuple[int, int]) -> np.ndarray:
    return np.array([[float(number) for group in groups for number in group]])


def test_two_groups_are_newcombes() -> None:
    """Newcombe 1998, table II, example a: 56 of 70 and 48 of 80 differ by 0.0524 to 0.3339."""
    low, high = bounds._less(bounds._Share(56, 70), bounds._Share(48, 80), bounds.Z95)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


@pytest.mark.parametrize(("ends", "value"), ALL)
def test_the_value_lies_within(ends: bounds.Bounds, value: object) -> None:
    assert callable(value)
    chance = np.random.default_rng(1)
    for _ in range(50):
        rows = chance.integers(1, 60, 4)
        told = sums(*((int(chance.integers(0, count + 1)), int(count)) for count in rows), (0, 0))
        low, high = ends(told)
        assert 0.0 <= low <= 1.0
        assert low - 1e-9 <= float(value(told)[0]) <= high + 1e-9


def test_groups_that_are_alike_may_be_alike() -> None:
    assert bounds.spread(sums((30, 40), (31, 40), (28, 40)))[0] == 0.0
    assert bounds.ratio(sums((30, 40), (31, 40), (28, 40)))[1] == 1.0
    low, high = bounds.spread(sums((10, 100), (90, 100), (50, 100)))
    assert 0.6 < low < 0.8 < high < 0.9


def test_more_groups_need_a_larger_gap() -> None:
    two = bounds.spread(sums((30, 60), (45, 60)))
    five = bounds.spread(sums((30, 60), (45, 60), *[(38, 60)] * 3))
    assert five[0] < two[0]
    assert bounds.greater_spread(np.hstack([sums((30, 60), (45, 60)), sums((9, 60), (50, 60))]))[1] > 0.75


def test_nothing_is_known_of_no_groups() -> None:
    assert bounds.spread(sums((0, 0))) == bounds.ratio(sums((0, 0))) == bounds.worst(sums((0, 0))) == (0.0, 1.0)
    assert bounds.ratio(sums((0, 20), (0, 30))) == (0.0, 1.0)
