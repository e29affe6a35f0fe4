"""Intervals of gaps between groups: groups that are alike are not told apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from luthier.eval import group_gaps
from luthier.metrics.intervals import wilson_interval

ALL = (
    (group_gaps.compute_spread_interval, group_gaps.compute_share_spread),
    (group_gaps.compute_ratio_interval, group_gaps.compute_share_ratio),
    (group_gaps.bound_lowest_share, group_gaps.compute_lowest_share),
)


def sums(*groups: tuple[int, int]) -> np.ndarray:
    return np.array([[float(number) for group in groups for number in group]])


def test_one_group_is_wilsons() -> None:
    assert group_gaps.bound_lowest_share(sums((30, 50))) == pytest.approx(wilson_interval(30, 50), abs=1e-6)


def test_two_groups_that_differ_have_a_score_interval() -> None:
    """Of 56 of 70 and 48 of 80, Mee's and Miettinen's with Nurminen's have 0.0533 and 0.0528 to 0.3377 and 0.3382.

    Newcombe 1998, Stat. Med. 17, table II, example a.
    """
    assert group_gaps.compute_spread_interval(sums((56, 70), (48, 80))) == pytest.approx((0.0530, 0.3380), abs=8e-4)


@pytest.mark.parametrize(("ends", "value"), ALL)
def test_intervals_hold_the_truth_as_often_as_they_say(
    ends: group_gaps.Bounds, value: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Of groups that differ, some sets of rows miss it; with bounds for all pairs at once none of these did."""
    chance, rows, shares, sets = np.random.default_rng(3), 20, (0.62, 0.72, 0.86), 80
    truth = float(value(sums(*((round(1000 * share), 1000) for share in shares)))[0])
    found = [ends(sums(*((int(so), rows) for so in chance.binomial(rows, shares)))) for _ in range(sets)]
    assert 0.9 <= np.mean([low <= truth <= high for low, high in found]) < 1


def test_shares_of_many_rows_are_told_apart_finely() -> None:
    low, high = group_gaps.compute_spread_interval(sums((100_000, 200_000), (101_000, 200_000)))
    error = (2 * 0.5 * 0.5 / 200_000) ** 0.5
    assert (low, high) == pytest.approx((0.005 - 1.96 * error, 0.005 + 1.96 * error), abs=2e-5)


def test_shares_that_are_all_the_same_may_differ_unseen() -> None:
    low, high = group_gaps.compute_spread_interval(sums((20, 20), (20, 20)))
    assert low == 0.0
    assert 0.1 < high < 0.2


@pytest.mark.parametrize(("ends", "value"), ALL)
def test_the_value_lies_within(ends: group_gaps.Bounds, value: object) -> None:
    assert callable(value)
    chance = np.random.default_rng(1)
    for _ in range(50):
        rows = chance.integers(1, 60, 4)
        told = sums(*((int(chance.integers(0, count + 1)), int(count)) for count in rows), (0, 0))
        low, high = ends(told)
        assert 0.0 <= low <= 1.0
        assert low - 1e-9 <= float(value(told)[0]) <= high + 1e-9


def test_groups_that_are_alike_may_be_alike() -> None:
    assert group_gaps.compute_spread_interval(sums((30, 40), (31, 40), (28, 40)))[0] == 0.0
    assert group_gaps.compute_ratio_interval(sums((30, 40), (31, 40), (28, 40)))[1] == 1.0
    low, high = group_gaps.compute_spread_interval(sums((10, 100), (90, 100), (50, 100)))
    assert 0.6 < low < 0.8 < high < 0.9


def test_more_groups_need_a_larger_gap() -> None:
    two = group_gaps.compute_spread_interval(sums((30, 60), (45, 60)))
    five = group_gaps.compute_spread_interval(sums((30, 60), (45, 60), *[(38, 60)] * 3))
    assert five[0] < two[0]
    assert (
        group_gaps.compute_greater_spread_interval(np.hstack([sums((30, 60), (45, 60)), sums((9, 60), (50, 60))]))[1]
        > 0.75
    )


def test_nothing_is_known_of_no_groups() -> None:
    assert (
        group_gaps.compute_spread_interval(sums((0, 0)))
        == group_gaps.compute_ratio_interval(sums((0, 0)))
        == group_gaps.bound_lowest_share(sums((0, 0)))
        == (0.0, 1.0)
    )
    assert group_gaps.compute_ratio_interval(sums((0, 20), (0, 30))) == (0.0, 1.0)
