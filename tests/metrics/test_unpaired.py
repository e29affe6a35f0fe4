"""Arms of live traffic: against scipy, statsmodels, and numbers from the papers."""

from __future__ import annotations

import math
import random

import pytest
from scipy.stats import fisher_exact, ttest_ind, ttest_rel
from statsmodels.stats.proportion import confint_proportions_2indep

from luthier.metrics.paired import mcnemar
from luthier.metrics.unpaired import Observation, compare_paired_requests, compare_unpaired, newcombe_interval


def seen(values: list[float]) -> list[Observation]:
    return [Observation(value) for value in values]


def test_shares_are_compared_as_statsmodels_and_scipy_do() -> None:
    found = compare_unpaired(seen([1.0] * 56 + [0.0] * 14), seen([1.0] * 48 + [0.0] * 32))
    assert found is not None
    assert found.difference == pytest.approx(0.2)
    low, high = confint_proportions_2indep(56, 70, 48, 80, method="newcomb")
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.low, found.high) == pytest.approx(
        (0.0524, 0.3339), abs=1e-4
    )  # Newcombe 1998, table II (a), method 10
    assert found.p == pytest.approx(fisher_exact([[56, 14], [48, 32]])[1])
    assert newcombe_interval(0, 10, 0, 20) == pytest.approx((-0.1611, 0.2775), abs=1e-4)  # table II (g)


def test_other_means_are_compared_as_scipy_does() -> None:
    chance = random.Random(3)
    a, b = [chance.gauss(1, 1) for _ in range(40)], [chance.gauss(0, 3) for _ in range(70)]
    found = compare_unpaired(seen(a), seen(b))
    assert found is not None
    theirs = ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert (found.test, found.rows, found.people) == ("Welch", (40, 70), (40, 70))


def test_what_one_person_gets_again_is_no_news() -> None:
    chance = random.Random(4)
    first = [Observation(chance.gauss(0, 1), f"{person}") for person in range(12)]
    again = [one for one in first for _ in range(50)]
    second = seen([chance.gauss(1, 1) for _ in range(12)])
    once, often = compare_unpaired(first, second), compare_unpaired(again, second)
    assert once is not None
    assert often is not None
    assert often.p == pytest.approx(once.p)
    assert (often.rows, often.people, often.test) == ((600, 12), (12, 12), "Welch, over people")


def test_little_is_known_of_little() -> None:
    assert compare_unpaired([], seen([1.0])) is None
    found = compare_unpaired(seen([0.5]), seen([0.25, 0.5]))
    assert found is not None
    assert (found.low, found.high, found.p) == (-math.inf, math.inf, 1.0)
    same = compare_unpaired(seen([0.5, 0.5]), seen([0.5, 0.5]))
    assert same is not None
    assert (same.difference, same.p) == (0.0, 1.0)


def test_pairs_are_compared_as_pairs() -> None:
    found = compare_paired_requests([1.0] * 30 + [0.0] * 10, [1.0] * 25 + [0.0] * 15)
    assert found.p == pytest.approx(mcnemar(5, 0))
    chance = random.Random(5)
    a = [chance.random() for _ in range(30)]
    b = [one + chance.gauss(0.1, 0.2) for one in a]
    found, theirs = compare_paired_requests(a, b), ttest_rel(a, b)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert compare_paired_requests([0.5], [0.25]).p == 1.0
    assert compare_paired_requests([0.5, 0.75], [0.25, 0.5]).difference == pytest.approx(0.25)


def test_no_spread_among_few_is_no_certainty() -> None:
    liked, not_liked = seen([1.0, 1.0]), seen([-1.0, -1.0])
    found = compare_unpaired(liked, not_liked)
    assert found is not None
    assert found.p == pytest.approx(fisher_exact([[2, 0], [0, 2]])[1])
    assert 0 < found.low < 0.3
    assert found.high == found.difference == 2.0
    turned = compare_unpaired(not_liked, liked)
    assert turned is not None
    assert (turned.low, turned.high, turned.p) == (-found.high, -found.low, found.p)
    found = compare_paired_requests([0.5, 0.5], [0.25, 0.25])
    assert found.p == pytest.approx(mcnemar(2, 0))
    assert found.low < 0 < found.high == found.difference == 0.25
    many = compare_paired_requests([0.25] * 100, [0.5] * 100)
    assert many.p < 1e-20
    assert many.low == many.difference == -0.25 < many.high < -0.2


def test_people_who_are_always_right_or_wrong_are_counted() -> None:
    first = [Observation(1.0, "anna"), Observation(1.0, "anna"), Observation(1.0, "ben")]
    found = compare_unpaired(first, [Observation(0.0, "cleo"), Observation(0.0, "dora"), Observation(0.0, "dora")])
    assert found is not None
    assert found.p == pytest.approx(fisher_exact([[2, 0], [0, 2]])[1])
    assert (found.low, found.high) == newcombe_interval(2, 2, 0, 2)
    assert (found.test, found.people) == ("Fisher, exact, over people", (2, 2))
