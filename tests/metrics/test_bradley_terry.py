"""Strengths from preferences, against scikit-learn, a plain search by scipy, and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.metrics.bradley_terry import PairwiseComparison, fit_bradley_terry

NAMES = ("base", "large", "small", "tuned")
TRUE = {"base": 0.0, "large": 1.2, "small": -0.7, "tuned": 0.8}


def _duels(count: int, tie: float, seed: int, per_item: int = 1) -> list[PairwiseComparison]:
    chance = np.random.default_rng(seed)
    found = []
    for number in range(count):
        a, b = (NAMES[at] for at in chance.choice(4, size=2, replace=False))
        weights = np.array([np.exp((TRUE[a] - TRUE[b]) / 2), tie, np.exp((TRUE[b] - TRUE[a]) / 2)])
        for _ in range(per_item):
            found.append(
                PairwiseComparison(a, b, (1.0, 0.5, 0.0)[chance.choice(3, p=weights / weights.sum())], f"item {number}")
            )
    return found


def test_without_ties_it_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    duels = _duels(600, 0.0, 1)
    rows = np.zeros((len(duels), 4))
    for row, duel in enumerate(duels):
        rows[row, NAMES.index(duel.a)], rows[row, NAMES.index(duel.b)] = 1, -1
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000)
    model.fit(rows[:, 1:], [duel.outcome for duel in duels])
    found = fit_bradley_terry(duels, against="base", smoothing=0)
    assert [found.of[name].value for name in NAMES[1:]] == pytest.approx(model.coef_[0].tolist(), abs=1e-5)
    assert found.of["base"].value == found.of["base"].low == 0
    assert found.tie is None


def test_with_ties_nothing_likelier_is_found_by_another_search() -> None:
    from scipy.optimize import minimize

    duels = _duels(500, 0.8, 2)

    def unlikely(p: np.ndarray) -> float:
        told = dict(zip(NAMES, [0.0, *p[:3]], strict=True))
        total = 0.0
        for duel in duels:
            gap = (told[duel.a] - told[duel.b]) / 2
            logs = {1.0: gap, 0.5: p[3], 0.0: -gap}
            total -= logs[duel.outcome] - np.log(sum(np.exp(list(logs.values()))))
        return total

    best = minimize(unlikely, np.zeros(4), method="BFGS", options={"gtol": 1e-7})
    found = fit_bradley_terry(duels, smoothing=0)
    mine = [*(found.of[name].value for name in NAMES[1:]), np.log(found.tie or 0)]
    assert mine == pytest.approx(best.x.tolist(), abs=1e-4)


def test_intervals_hold_the_truth_and_judges_of_one_item_do_not_count_as_more_items() -> None:
    inside = 0
    for seed in range(60):
        found = fit_bradley_terry(_duels(150, 0.7, 100 + seed), against="base")
        inside += sum(found.of[name].low <= TRUE[name] <= found.of[name].high for name in NAMES[1:])
    assert 0.90 <= inside / 180 <= 0.99
    once = [PairwiseComparison("tuned", "base", float(n % 3 > 0), f"item {n}") for n in range(60)]
    widths = [
        found.high - found.low
        for found in (fit_bradley_terry(duels, smoothing=0).of["tuned"] for duels in (once, once * 4))
    ]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)


def test_the_order_of_judgments_and_of_a_pair_changes_nothing() -> None:
    duels = _duels(200, 0.5, 3)
    turned = [PairwiseComparison(duel.b, duel.a, 1 - duel.outcome, duel.item) for duel in reversed(duels)]
    one, other = fit_bradley_terry(duels), fit_bradley_terry(turned)
    for name in NAMES:
        assert vars(one.of[name]) == pytest.approx(vars(other.of[name]), abs=1e-8)


def test_chances_add_up_and_ties_come_from_equals() -> None:
    found = fit_bradley_terry(
        [PairwiseComparison("a", "b", outcome, str(n)) for n, outcome in enumerate([1.0, 0.0, 0.5, 0.5])], smoothing=0
    )
    wins, ties, loses = found.beats("a", "b")
    assert (wins, ties, loses) == pytest.approx((0.25, 0.5, 0.25))
    assert found.of["b"].value == pytest.approx(0, abs=1e-9)


def test_one_that_always_won_is_finite_only_with_smoothing() -> None:
    duels = [PairwiseComparison("tuned", "base", 1.0, str(n)) for n in range(20)]
    assert 2 < fit_bradley_terry(duels, against="base").of["tuned"].value < 5
    with pytest.raises(DataError, match="always won"):
        fit_bradley_terry(duels, smoothing=0)


def test_what_never_met_is_not_ranked() -> None:
    with pytest.raises(DataError, match="'c' was never compared"):
        fit_bradley_terry([PairwiseComparison("a", "b", 1.0, "1"), PairwiseComparison("c", "d", 1.0, "2")])
    with pytest.raises(DataError, match="two models or more"):
        fit_bradley_terry([])


def _styled(count: int, seed: int) -> list[PairwiseComparison]:
    """Judgments of people who like long answers; `large` writes long ones."""
    chance = np.random.default_rng(seed)
    wordy = {"base": 0.0, "large": 0.6, "small": -0.2, "tuned": 0.1}
    found = []
    for number in range(count):
        a, b = (NAMES[at] for at in chance.choice(4, size=2, replace=False))
        style = (wordy[a] - wordy[b] + 0.3 * chance.standard_normal(), chance.uniform(-1, 1))
        gap = TRUE[a] - TRUE[b] + 1.5 * style[0] - 0.5 * style[1]
        outcome = float(chance.random() < 1 / (1 + np.exp(-gap)))
        found.append(PairwiseComparison(a, b, outcome, f"item {number}", style))
    return found


def test_with_covariates_it_is_the_logistic_regression_of_statsmodels() -> None:
    import statsmodels.api as sm

    duels = _styled(800, 4)
    rows = np.zeros((len(duels), 6))
    for row, duel in enumerate(duels):
        rows[row, NAMES.index(duel.a)], rows[row, NAMES.index(duel.b)] = 1, -1
        rows[row, 4:] = duel.covariates
    clusters = {"groups": np.arange(len(duels)), "df_correction": False, "use_correction": True}
    model = sm.Logit([duel.outcome for duel in duels], rows[:, 1:]).fit(
        disp=0, tol=1e-12, cov_type="cluster", cov_kwds=clusters
    )
    found = fit_bradley_terry(duels, against="base", smoothing=0, covariates=("length", "mark-up"))
    mine = [*(found.of[name] for name in NAMES[1:]), *found.effects.values()]
    assert [one.value for one in mine] == pytest.approx(model.params.tolist(), abs=1e-6)
    widths = [(one.high - one.low) / 2 / 1.959964 for one in mine]
    assert widths == pytest.approx((model.bse / np.sqrt(799 / 795)).tolist(), rel=1e-5)  # it also counts parameters


def test_covariates_with_ties_are_the_ones_that_another_search_finds() -> None:
    from scipy.optimize import minimize

    duels = [duel._replace(outcome=0.5) if number % 5 == 0 else duel for number, duel in enumerate(_styled(400, 5))]

    def unlikely(p: np.ndarray) -> float:
        told = dict(zip(NAMES, [0.0, *p[:3]], strict=True))
        total = 0.0
        for duel in duels:
            gap = (told[duel.a] - told[duel.b] + p[4] * duel.covariates[0] + p[5] * duel.covariates[1]) / 2
            logs = {1.0: gap, 0.5: p[3], 0.0: -gap}
            total -= logs[duel.outcome] - np.log(sum(np.exp(list(logs.values()))))
        return total

    best = minimize(unlikely, np.zeros(6), method="BFGS", options={"gtol": 1e-7})
    found = fit_bradley_terry(duels, smoothing=0, covariates=("length", "mark-up"))
    mine = [*(found.of[name].value for name in NAMES[1:]), np.log(found.tie or 0)]
    mine += [one.value for one in found.effects.values()]
    assert mine == pytest.approx(best.x.tolist(), abs=1e-4)


def test_what_is_liked_for_its_length_alone_is_no_stronger_among_answers_of_one_length() -> None:
    chance = np.random.default_rng(6)
    duels = []
    for number in range(800):
        length = 0.5 + 0.3 * chance.standard_normal()  # `long` writes longer answers, and is as good
        won = float(chance.random() < 1 / (1 + np.exp(-2 * length)))
        duels.append(PairwiseComparison("long", "short", won, str(number), (length,)))
    plain = fit_bradley_terry(duels, against="short").of["long"]
    alike = fit_bradley_terry(duels, against="short", covariates=("length",)).of["long"]
    assert plain.low > 0.5
    assert alike.low < 0 < alike.high
    always = [PairwiseComparison("a", "b", 1.0, str(number), (1.0,)) for number in range(20)]
    assert fit_bradley_terry(always, covariates=("length",)).effects["length"].value < 10


def test_an_answer_is_measured_by_its_words_and_its_mark_up() -> None:
    from luthier.metrics.style import measure_style, style_difference

    marked = "## Steps\n1. **open** it\n- look\n| a | b |\n```\ncode\n```"
    assert measure_style(marked) == (15, 7)
    assert measure_style("plain words, 3. of them") == (5, 0)
    assert style_difference("one two three", "one") == (0.5, 0.0)
    assert style_difference("# a", "a")[1] == 1.0
    assert style_difference("", "") == (0.0, 0.0)
