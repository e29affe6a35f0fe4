"""Paired comparison: formulae against scipy, and what intervals and tests claim, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError, RecipeError
from luthier.metrics.kinds.answers import TokenF1
from luthier.metrics.kinds.labels import Accuracy, MacroF1
from luthier.metrics.metric import EvalPredictions, Metric
from luthier.metrics.paired import (
    adjust_comparisons_holm,
    adjust_holm,
    bonett_price_interval,
    check_signatures,
    compare_paired,
    estimate_additional_rows,
    mcnemar,
    minimum_detectable_difference,
)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None)
def test_mcnemar_is_the_binomial_test_less_half_the_table(fixed: int, broken: int) -> None:
    from scipy.stats import binom, binomtest

    found = mcnemar(fixed, broken)
    assert found == mcnemar(broken, fixed)
    if fixed == broken:
        assert found == 1.0
    else:
        exact = binomtest(fixed, fixed + broken, 0.5).pvalue
        assert found == pytest.approx(exact - binom.pmf(fixed, fixed + broken, 0.5), abs=1e-9)


def test_holm_by_hand() -> None:
    assert adjust_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_holm_keeps_order_and_never_helps(p_values: list[float]) -> None:
    adjusted = adjust_holm(p_values)
    assert all(0 <= p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [q for _, q in pairs] == sorted(adjusted)


def test_interval_of_the_difference_is_known() -> None:
    """By hand: 20 fixed, 10 broken of 100 rows (Bonett and Price 2012, equation 1)."""
    found = bonett_price_interval(20, 10, 100)
    gained, lost = 21 / 102, 11 / 102
    half = 1.959963984540054 * ((gained + lost - (gained - lost) ** 2) / 102) ** 0.5
    assert found.value == pytest.approx(0.10)
    assert (found.low, found.high) == pytest.approx((gained - lost - half, gained - lost + half))


def test_detectable_and_more_rows_agree() -> None:
    """As many rows as are asked for make the distance just detectable."""
    rows, error, distance = 400, 0.02, 0.03
    needed = estimate_additional_rows(distance, error, rows)
    assert needed is not None
    later = error * (rows / (rows + needed)) ** 0.5
    assert minimum_detectable_difference(later) == pytest.approx(distance, rel=1e-2)
    assert estimate_additional_rows(0.0, error, rows) is None
    assert estimate_additional_rows(1.0, error, rows) == 1


def pair(seed: int, rows: int, gap: float) -> tuple[EvalPredictions, EvalPredictions]:
    """Two models that are right on 70 % of rows less or more half the gap, and agree on many of them."""
    chance = np.random.default_rng(seed)
    real = chance.integers(0, 3, rows)
    ease = chance.random(rows)
    told = []
    for share in (0.7 + gap / 2, 0.7 - gap / 2):
        right = np.where(chance.random(rows) < 0.5, ease, chance.random(rows)) < share
        told.append(np.where(right, real, (real + 1) % 3))
    references = [f"label {number}" for number in real]
    a, b = (EvalPredictions.of([f"label {number}" for number in said], references) for said in told)
    return a, b


@pytest.mark.parametrize("metric", [Accuracy(), MacroF1(), TokenF1()], ids=lambda metric: metric.kind)
def test_false_alarms_between_equal_models(metric: Metric) -> None:
    """Two models that are equally good: about one comparison in twenty says otherwise, not more."""
    runs = 240
    alarms = covered = 0
    for seed in range(runs):
        found = compare_paired(metric, *pair(seed, 120, 0.0), seed=seed)
        alarms += found.p < 0.05
        covered += found.low <= 0 <= found.high
    assert 0.01 <= alarms / runs <= 0.09
    assert 0.90 <= covered / runs <= 0.99


def test_power_at_the_detectable_difference() -> None:
    """A difference as large as is called detectable is found about four times out of five."""
    rows = 300
    gap = compare_paired(Accuracy(), *pair(0, rows, 0.0)).detectable
    found = sum(compare_paired(Accuracy(), *pair(seed, rows, gap)).p < 0.05 for seed in range(200)) / 200
    assert 0.7 <= found <= 0.9


def test_models_that_answer_alike_have_a_narrow_interval() -> None:
    a, _ = pair(1, 200, 0.1)
    accuracy, f1 = compare_paired(Accuracy(), a, a), compare_paired(TokenF1(), a, a)
    assert (f1.low, f1.high) == (accuracy.low, accuracy.high)
    assert f1.high < 0.02
    assert "no row tells" in f1.note


def test_family_is_corrected_together() -> None:
    a, b = pair(1, 200, 0.1)
    family = adjust_comparisons_holm([compare_paired(metric, a, b) for metric in (Accuracy(), MacroF1())])
    assert [one.p_holm for one in family] == adjust_holm([one.p for one in family])
    assert family[0].as_json()["p_holm"] == family[0].p_holm


def test_other_rows_are_refused() -> None:
    a, _ = pair(1, 50, 0.1)
    b, _ = pair(2, 50, 0.1)
    with pytest.raises(DataError, match="same rows"):
        compare_paired(Accuracy(), a, b)
    with pytest.raises(RecipeError, match="cannot be compared"):
        check_signatures("bleu|v:1|tokenize:13a", "bleu|v:1|tokenize:zh", "bleu")
