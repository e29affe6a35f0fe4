"""The end of a search: which trial is taken, what is said of it, and how often a winner among equal ones is called
better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from luthier.artifacts.search import SearchVerdict
from luthier.auto.search.scores import PLAIN, Key, ScoreTable
from luthier.auto.search.verdict import decide_winner, parse_preference, rank_trials, shrink_gain
from luthier.core.errors import DataError, RecipeError
from luthier.metrics.paired import adjust_holm

Floats = NDArray[np.float64]


def right(share: float, rows: int = 400) -> list[float]:
    """Rows of which the first are right: models differ in as few rows as they can."""
    return [float(at < share * rows) for at in range(rows)]


def judged(shares: Mapping[Any, float], *, rows: int = 400, of: str = "tune", **settings: Any) -> SearchVerdict:
    scores = {key: [right(share, rows)] for key, share in shares.items()}
    return decide_winner(ScoreTable.of_rows("accuracy", scores), of=of, **settings)


def test_the_best_of_the_clearly_better_is_taken() -> None:
    found = judged({0: 0.7, 4: 0.8, 9: 0.85, 2: 0.71})
    assert (found.winner, found.best, found.better) == (9, 9, True)
    assert found.sentence.startswith("Trial 9 is better than tune: +0.150 (")
    assert "p < 0.001 with Holm's correction over 3 finalists" in found.sentence
    assert "one seed" in found.sentence
    assert {one.trial: one.p_holm for one in found.comparisons}[2] == pytest.approx(
        adjust_holm([one.p for one in found.comparisons])[0]
    )


def test_where_nothing_is_clearly_better_of_stays() -> None:
    found = judged({0: 0.70, 1: 0.7075, 2: 0.69})
    assert (found.winner, found.best, found.better) == (0, 1, False)
    assert found.sentence.startswith("tune stays as it is: of 2 finalists none is clearly better. The best, trial 1,")
    assert "400 test rows show a difference of" in found.sentence


def test_a_clearly_worse_one_is_not_taken() -> None:
    found = judged({0: 0.9, 1: 0.5})
    assert (found.winner, found.better) == (0, False)


def test_less_can_be_better() -> None:
    rows = {0: [right(0.5)], 1: [right(0.2)]}
    found = decide_winner(ScoreTable.of_rows("wer", rows, lower_is_better=True), of="tune")
    assert (found.winner, found.better) == (1, True)
    assert found.gain is not None
    assert found.gain.observed == pytest.approx(0.3)


def test_of_alone_stays() -> None:
    found = judged({0: 0.9})
    assert (found.winner, found.better, found.gain, found.comparisons) == (0, False, None, ())
    assert found.sentence == "tune stays as it is: no other trial came so far."


def test_without_of_nothing_can_be_said() -> None:
    with pytest.raises(DataError, match="trial 0"):
        judged({1: 0.9})


def test_one_seed_is_enough_where_nothing_is_drawn() -> None:
    rows = {0: [right(0.5)], 1: [right(0.6)]}
    assert "one seed" in decide_winner(ScoreTable.of_rows("accuracy", rows, fixed=[1]), of="tune").sentence
    assert "one seed" not in decide_winner(ScoreTable.of_rows("accuracy", rows, fixed=[0, 1]), of="tune").sentence


def test_the_plain_baseline_is_compared_with_all() -> None:
    found = judged({0: 0.7, 1: 0.8, PLAIN: 0.9})
    assert [(one.trial, one.against) for one in found.comparisons] == [(1, "of"), (0, "plain"), (1, "plain")]
    assert "worse than the plain baseline: −0.100" in found.sentence
    assert "not clearly better than the plain baseline" in judged({0: 0.7, PLAIN: 0.7}).sentence


def test_constraints_decide_before_quality() -> None:
    found = judged({0: 0.7, 1: 0.9, 2: 0.8}, refused={1: "latency <= 0.2: latency is 0.5"})
    assert (found.winner, found.best) == (2, 2)
    taken = judged({0: 0.7, 1: 0.65}, refused={0: "memory <= 1e9: memory is 2e+09"})
    assert (taken.winner, taken.better) == (1, False)
    assert "tune does not meet the constraints (memory <= 1e9: memory is 2e+09)" in taken.sentence
    none = judged({0: 0.7, 1: 0.9}, refused={0: "x", 1: "y"})
    assert none.winner == 0
    assert "no finalist meets the constraints" in none.sentence
    alone = judged({0: 0.7, 1: 0.9}, refused={1: "y"})
    assert "no other finalist meets the constraints" in alone.sentence


def test_a_smaller_model_within_the_margin_is_preferred() -> None:
    sizes = {0: {"parameters": 135e6}, 1: {"parameters": 130e6}, 2: {"parameters": 5e4}, 3: {"parameters": 1e4}}
    shares = {0: 0.7, 1: 0.8, 2: 0.795, 3: 0.75}
    found = judged(shares, prefer=parse_preference("smallest within 1 point"), measured=sizes)
    assert (found.winner, found.best, found.better, found.prefer) == (2, 1, True, "smallest within 1 point")
    assert "Trial 2 is taken all the same, as the smallest within 1 point: it differs from trial 1 by −0.005" in (
        found.sentence
    )
    wider = judged(shares, prefer=parse_preference("smallest within 5 points"), measured=sizes)
    assert wider.winner == 3
    none = judged(shares, prefer=parse_preference("smallest within 0.1 points"), measured=sizes)
    assert (none.winner, none.prefer) == (1, "")


def test_a_preference_without_its_measure_changes_nothing() -> None:
    found = judged({0: 0.7, 1: 0.8}, prefer=parse_preference("quickest within 20 points"), measured={})
    assert (found.winner, found.prefer) == (1, "")


def test_of_equally_small_models_the_winner_stays() -> None:
    sizes = {trial: {"latency": 1.0} for trial in (0, 1)}
    found = judged({0: 0.79, 1: 0.85}, prefer=parse_preference("quickest within 9 points"), measured=sizes)
    assert found.winner == 1


@pytest.mark.parametrize(
    ("text", "measure", "points"),
    [
        ("smallest within 1 point", "parameters", 1),
        ("  Quickest  within 2 points ", "latency", 2),
        ("cheapest within 0.5 points", "price", 0.5),
    ],
)
def test_preferences_are_read(text: str, measure: str, points: float) -> None:
    found = parse_preference(text)
    assert (found.measure, found.points) == (measure, points)
    assert found.margin(100) == points


@pytest.mark.parametrize("text", ["", "smallest", "smallest within a point", "biggest within 1 point", "cheapest < 2"])
def test_what_is_no_preference_is_refused(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_preference(text)
    assert caught.value.where is not None
    assert caught.value.where.field == "prefer"
    assert caught.value.hint


def test_holm_is_that_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    random = np.random.default_rng(0)
    for count in (1, 2, 3, 8):
        p_values = list(random.random(count) ** 3)
        _, expected, _, _ = multitest.multipletests(p_values, method="holm")
        assert adjust_holm(p_values) == pytest.approx(list(expected))
    assert adjust_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_a_single_finalist_is_not_shrunken_and_equal_ones_wholly() -> None:
    table = ScoreTable.of_rows("accuracy", {0: [right(0.5)], 1: [right(0.6)]})
    alone = shrink_gain(table, 1)
    assert alone is not None
    assert (alone.kept, alone.value) == (1, alone.observed)
    same = shrink_gain(ScoreTable.of_rows("accuracy", {0: [right(0.5)], 1: [right(0.6)], 2: [right(0.6)]}), 1)
    assert same is not None
    assert same.value == pytest.approx(same.observed)


def test_the_shrunken_gain_is_nearer_the_truth_than_the_seen_one() -> None:
    random = np.random.default_rng(4)
    observed, shrunken, inside = [], [], []
    for _ in range(300):
        effects = np.array([0.0, *(0.1 + random.normal(0, 0.05, 4))])
        level = random.normal(0, 1, 100)
        rows: dict[Key, list[Floats]] = {
            key: [level + effect + random.normal(0, 1, 100) for _ in range(2)] for key, effect in enumerate(effects)
        }
        table = ScoreTable.of_rows("reward", rows, span=(-5, 5))
        best = next(trial for trial in rank_trials(table) if trial)
        found = shrink_gain(table, best)
        assert found is not None
        observed.append(found.observed - effects[best])
        shrunken.append(found.value - effects[best])
        inside.append(found.low <= effects[best] <= found.high)
    assert np.mean(observed) > 0.05
    assert abs(np.mean(shrunken)) < 0.02
    assert np.mean(np.square(shrunken)) < 0.75 * np.mean(np.square(observed))
    assert np.mean(inside) > 0.91


def searched(random: np.random.Generator, *, trials: int, finalists: int, seeds: int, rows: int) -> ScoreTable:
    """A whole search among equal settings: the finalists are the best of many on validation rows."""
    observed = random.random((trials, 50)).mean(axis=1)
    chosen = [0, *(1 + np.argsort(-observed[1:])[:finalists])]
    level = random.normal(1.0, 1.5, rows)
    spread = 0.2 if seeds > 1 else 0.0
    return ScoreTable.of_rows(
        "accuracy",
        {
            int(trial): [
                (level + random.normal(0, spread) + random.normal(0, 0.4, rows) > 0).astype(float) for _ in range(seeds)
            ]
            for trial in chosen
        },
    )


def count_called_better(searches: int, **settings: int) -> int:
    random = np.random.default_rng(7)
    return sum(
        decide_winner(searched(random, trials=40, **settings), of="tune", seed=at).better for at in range(searches)
    )


def test_a_winner_among_equal_ones_is_seldom_called_better() -> None:
    assert count_called_better(200, finalists=3, seeds=1, rows=200) <= 0.05 * 200


@pytest.mark.slow
@pytest.mark.parametrize(("finalists", "seeds", "rows"), [(3, 1, 200), (5, 1, 40), (3, 3, 60), (3, 2, 100)])
def test_of_a_thousand_searches_among_equal_ones_at_most_fifty_call_the_winner_better(
    finalists: int, seeds: int, rows: int
) -> None:
    assert count_called_better(1000, finalists=finalists, seeds=seeds, rows=rows) <= 50
