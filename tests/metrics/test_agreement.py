"""Agreement: published examples to the printed digits, other people's implementations exactly, intervals that cover."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.metrics.agreement import (
    Coefficient,
    cohen_kappa,
    compute_agreement,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
    scott_pi,
)

# Krippendorff 2011, section C: four observers, twelve units, missing judgments.
KRIPPENDORFF = [
    [1, 1, None, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4],
    [4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2], [None, 5, 5, 5], [None, None, 1, 1], [None, 3, None, None],
]  # fmt: skip
# Krippendorff 2011, sections A and B: two observers, binary and nominal data.
BINARY = list(zip([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], strict=True))
NOMINAL = list(zip("aabbdcccedda", "babbbccceddd", strict=True))
# Fleiss 1971, table 1: thirty patients, six psychiatrists, five diagnoses.
FLEISS = [
    list(patient)
    for group in (
        "444444|222555|233335|555555|222444|113333|333355|113334|114444|555555",
        "144444|124444|222333|144444|224445|333335|111455|111112|224444|133555",
        "555555|244444|224555|114444|144445|222224|111155|224444|133333|555555",
    )
    for patient in group.split("|")
]
# The worked example of Fleiss' kappa that textbooks repeat: ten items, fourteen raters, as counts of five categories.
COUNTS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


def _random_table(seed: int, items: int = 60, annotators: int = 3, categories: int = 4, missing: float = 0.0) -> Any:
    random = np.random.default_rng(seed)
    truth = random.integers(1, categories + 1, items)
    noisy = random.integers(1, categories + 1, (items, annotators))
    judged = np.where(random.random((items, annotators)) < 0.6, truth[:, None], noisy)
    gone = random.random((items, annotators)) < missing
    return [[None if gone[i, j] else int(judged[i, j]) for j in range(annotators)] for i in range(items)]


@pytest.mark.parametrize(
    ("level", "printed"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_krippendorffs_own_example_with_missing_judgments(level: Any, printed: float) -> None:
    found = krippendorff_alpha(KRIPPENDORFF, level=level)
    assert round(found.value, 3) == printed
    assert (found.items, found.judgments) == (11, 40), "a unit with one judgment cannot be compared"


def test_krippendorffs_own_examples_of_two_observers() -> None:
    assert round(krippendorff_alpha(BINARY).value, 3) == 0.095
    assert round(krippendorff_alpha(NOMINAL).value, 3) == 0.692


def test_fleiss_published_values() -> None:
    assert round(fleiss_kappa(FLEISS).value, 3) == 0.430
    table = [[str(k) for k, many in enumerate(counts) for _ in range(many)] for counts in COUNTS]
    assert round(fleiss_kappa(table).value, 3) == 0.210
    assert round(percent_agreement(table).value, 3) == 0.378


def test_fleiss_equals_statsmodels() -> None:
    from statsmodels.stats import inter_rater

    for seed in range(5):
        table = _random_table(seed, annotators=5)
        theirs = inter_rater.fleiss_kappa(inter_rater.aggregate_raters(np.array(table))[0])
        assert fleiss_kappa(table).value == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("weights", ["identity", "linear", "quadratic"])
def test_cohen_equals_scikit_learn(weights: Any) -> None:
    from sklearn.metrics import cohen_kappa_score

    for seed in range(5):
        table = _random_table(seed, annotators=2)
        first, second = zip(*table, strict=True)
        theirs = cohen_kappa_score(first, second, weights=None if weights == "identity" else weights)
        assert cohen_kappa(table, weights=weights).value == pytest.approx(theirs, abs=1e-12)


def test_scott_cohen_and_alpha_equal_nltk() -> None:
    from nltk.metrics.agreement import AnnotationTask

    for seed, annotators in ((1, 2), (2, 2), (3, 4)):
        table = _random_table(seed, annotators=annotators)
        data = [(str(j), str(i), value) for i, row in enumerate(table) for j, value in enumerate(row)]
        task = AnnotationTask(data=data)
        assert krippendorff_alpha(table).value == pytest.approx(task.alpha(), abs=1e-12)
        assert cohen_kappa(table).value == pytest.approx(task.kappa(), abs=1e-12), "Light's mean over pairs"
        assert fleiss_kappa(table).value == pytest.approx(task.pi(), abs=1e-12)
        if annotators == 2:
            assert scott_pi(table).value == pytest.approx(task.pi(), abs=1e-12)


def test_interval_alpha_equals_nltk_with_squared_differences() -> None:
    from nltk.metrics.agreement import AnnotationTask

    table = _random_table(4, missing=0.3)
    kept = [row for row in table if sum(value is not None for value in row) > 1]
    data = [(str(j), str(i), value) for i, row in enumerate(kept) for j, value in enumerate(row) if value is not None]
    theirs = AnnotationTask(data=data, distance=lambda a, b: float(a - b) ** 2).alpha()
    assert krippendorff_alpha(table, level="interval").value == pytest.approx(theirs, abs=1e-12)


def _ac(table: Any, weights: Any) -> float:
    """Gwet 2014, equations 4.3 and 5.2 to 5.4, item by item."""
    values = sorted({value for row in table for value in row if value is not None})
    number = len(values)
    apart = [[abs(a - b) / (number - 1) for b in range(number)] for a in range(number)]
    power = {"identity": 0, "linear": 1, "quadratic": 2}[weights]
    w = [[1 - (one**power if power else float(one > 0)) for one in row] for row in apart]
    rows = [[value for value in row if value is not None] for row in table]
    rows = [row for row in rows if row]
    seen, shares = [], [0.0] * number
    for row in rows:
        counts = [row.count(value) for value in values]
        many = len(row)
        near = [sum(w[k][j] * counts[j] for j in range(number)) for k in range(number)]
        if many > 1:
            seen.append(sum(counts[k] * (near[k] - 1) for k in range(number)) / (many * (many - 1)))
        for k in range(number):
            shares[k] += counts[k] / many / len(rows)
    observed = sum(seen) / len(seen)
    chance = sum(map(sum, w)) / (number * (number - 1)) * sum(share * (1 - share) for share in shares)
    return (observed - chance) / (1 - chance)


@pytest.mark.parametrize("weights", ["identity", "linear", "quadratic"])
def test_gwet_follows_its_formula(weights: Any) -> None:
    for seed, missing in ((1, 0.0), (2, 0.25)):
        table = _random_table(seed, annotators=4, missing=missing)
        assert gwet_ac1(table, weights=weights).value == pytest.approx(_ac(table, weights), abs=1e-12)


def test_a_single_judgment_says_how_often_its_category_is_used() -> None:
    """The values that Gwet's own package irrCAC prints for Krippendorff's example (its data set cac.raw4raters)."""
    assert gwet_ac1(KRIPPENDORFF).value == pytest.approx(0.77544, abs=5e-6)
    assert fleiss_kappa(KRIPPENDORFF).value == pytest.approx(0.76117, abs=5e-6)
    assert (gwet_ac1(KRIPPENDORFF).items, gwet_ac1(KRIPPENDORFF).judgments) == (11, 41)


@pytest.mark.parametrize("measured", ["krippendorff", "cohen", "gwet"])
def test_words_have_no_order_but_that_of_the_alphabet(measured: Any) -> None:
    """`low, medium, high` were once taken in the order of their letters, without a word."""
    table = [["low", "low"], ["high", "medium"], ["medium", "medium"], ["high", "high"], ["low", "medium"]]
    with pytest.raises(DataError, match=r"in what order .* a judgment is 'high'"):
        compute_agreement(measured, table, level="ordinal")
    numbers = {"low": 1, "medium": 2, "high": 3}
    told = compute_agreement(measured, [[numbers[word] for word in row] for row in table], level="ordinal")
    for names in ({"low": "a", "medium": "b", "high": "c"}, {"low": "1 low", "medium": "2 medium", "high": "3 high"}):
        named = compute_agreement(measured, [[names[word] for word in row] for row in table], level="ordinal")
        assert named.value == pytest.approx(told.value)


def test_gwets_paradox() -> None:
    """Where nearly all is one category, kappa falls and AC1 does not (Gwet 2008, table 3: 118 of 125 agree)."""
    table = [("+", "+")] * 118 + [("+", "-")] * 5 + [("-", "+")] * 2
    assert cohen_kappa(table).value == pytest.approx(-0.0234, abs=1e-3)
    assert gwet_ac1(table).value == pytest.approx(0.9408, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.5))
def test_order_and_names_do_not_count(seed: int, missing: float) -> None:
    table = _random_table(seed, items=20, missing=missing)
    random = np.random.default_rng(seed)
    moved = [[table[i][j] for j in random.permutation(3)] for i in random.permutation(20)]
    renamed = [[None if value is None else "dacb"[value - 1] for value in row] for row in table]
    for coefficient in ("fleiss", "krippendorff", "gwet", "percent"):
        one = compute_agreement(coefficient, table)
        assert one.low <= one.value <= one.high <= 1
        assert compute_agreement(coefficient, moved).value == pytest.approx(one.value)
        assert compute_agreement(coefficient, renamed).value == pytest.approx(one.value)


def test_the_same_seed_gives_the_same_interval_whatever_the_order() -> None:
    table = _random_table(3, missing=0.2)
    one, two = krippendorff_alpha(table, seed=5), krippendorff_alpha(table[::-1], seed=5)
    assert (one.low, one.high) == pytest.approx((two.low, two.high))
    assert krippendorff_alpha(table, seed=5) == one
    assert percent_agreement(table, seed=6).low != percent_agreement(table, seed=5).low  # which is resampled


@pytest.mark.parametrize("coefficient", ["cohen", "krippendorff", "gwet"])
def test_intervals_cover_the_value_of_the_whole_population(coefficient: Coefficient) -> None:
    population = _random_table(0, items=20_000)
    true = compute_agreement(coefficient, population[:4000]).value
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        sample = [population[place] for place in random.integers(0, len(population), 80)]
        found = compute_agreement(coefficient, sample, seed=trial)
        covered += found.low <= true <= found.high
    assert covered >= 52, f"{covered} of 60 intervals of 95 % hold the population's value"


def test_perfect_agreement_still_has_an_interval() -> None:
    found = krippendorff_alpha([[value, value] for value in "abcabcabcabc"])
    assert found.value == found.high == 1.0
    assert found.low < 1.0
    assert "no variance" in found.note


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ([], "no item was judged by two"),
        ([["a", None], [None, "b"]], "no item was judged by two"),
        ([["a", "a"], ["a", "a"]], "all judgments are 'a'"),
        ([["a", "b"], ["a"]], "different lengths"),
    ],
)
def test_what_cannot_be_told_is_said(table: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        krippendorff_alpha(table)


def test_levels_want_their_numbers() -> None:
    with pytest.raises(DataError, match="wants numbers; a judgment is 'b'"):
        krippendorff_alpha([["1", "b"], ["2", "2"]], level="interval")
    with pytest.raises(DataError, match="from 0 up; a judgment is -1"):
        krippendorff_alpha([[-1, 2], [2, 2]], level="ratio")
    with pytest.raises(DataError, match="two annotators; 3 came"):
        scott_pi(_random_table(1))


def test_no_warning_escapes_from_resamples_with_one_category() -> None:
    table = [["a", "a"]] * 30 + [["b", "a"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for coefficient in ("percent", "cohen", "scott", "fleiss", "gwet", "krippendorff"):
            found = compute_agreement(coefficient, table)
            assert np.isfinite([found.value, found.low, found.high]).all()
            assert found.as_json()["signature"].startswith(coefficient)
