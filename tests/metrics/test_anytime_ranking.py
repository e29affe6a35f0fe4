"""Bounds of preferences: true at every look for any number of models, and a choice of pairs that saves judgments."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from luthier.metrics.anytime_ranking import AnytimeRanking, BettingBounds, order_items, rank_pairs


def _judge(
    strengths: list[float],
    rows: int,
    seed: int,
    *,
    judges: int = 1,
    choose: bool = False,
    tie: float = 0.0,
    spread: float = 0.0,
    look: int = 10,
) -> tuple[AnytimeRanking, int | None, bool]:
    """The ranking after people judged, when it was told to stop, and whether anything false was ever said.

    `spread` is how differently rows speak for one of the two, so that judgments of one row hang together.
    """
    names = [f"m{number}" for number in range(len(strengths))]
    true = dict(zip(names, strengths, strict=True))
    chance = np.random.default_rng(seed)
    ranking, wins, false = AnytimeRanking(names, judges=judges), dict[tuple[str, str], float](), False
    pairs = list(combinations(names, 2))
    odds = np.full(len(pairs), 1 / len(pairs))
    for row in range(rows):
        a, b = pairs[chance.choice(len(pairs), p=odds)]
        gap = true[a] - true[b] + spread * chance.standard_normal()
        for _ in range(judges):
            score = 0.5 if chance.random() < tie else float(chance.random() < 1 / (1 + np.exp(-gap)))
            ranking.add(a, b, score, str(row))
            wins[a, b], wins[b, a] = wins.get((a, b), 0) + score, wins.get((b, a), 0) + 1 - score
        if row % look == look - 1:
            advice = ranking.advise()
            for one in ranking.standings().values():
                false |= one.better is not None and true[one.better] <= min(true[one.first], true[one.second])
            if advice.stop:
                return ranking, row + 1, false
            if choose:
                gains = rank_pairs(names, wins, [(one.first, one.second) for one in advice.undecided])
                odds = np.array([gains[pair] for pair in pairs]) + 1e-9
                odds /= odds.sum()
    return ranking, None, false


@pytest.mark.parametrize(("models", "rows"), [(2, 400), (3, 500), (5, 600)])
def test_equals_are_told_apart_at_any_look_in_five_percent_of_studies_at_most(models: int, rows: int) -> None:
    studies = 80
    false = sum(_judge([0.0] * models, rows, seed, choose=seed % 2 == 0)[2] for seed in range(studies))
    assert false / studies <= 0.05


def test_several_judges_of_a_row_do_not_count_as_several_rows() -> None:
    false = sum(_judge([0.0, 0.0], 250, seed, judges=3, spread=3.0)[2] for seed in range(80))
    assert false / 80 <= 0.05
    plain = [_judge([0.0, 1.0], 600, seed)[1] or 600 for seed in range(15)]
    several = [_judge([0.0, 1.0], 600, seed, judges=3)[1] or 600 for seed in range(15)]
    assert np.median(several) < 0.8 * np.median(plain)


def test_what_differs_is_found_in_the_right_order_and_sooner_when_pairs_are_chosen() -> None:
    stops = {}
    for choose in (False, True):
        found = [_judge([0.0, 0.8, 1.6, 2.4], 4000, seed, choose=choose) for seed in range(8)]
        assert not any(false for _, _, false in found)
        assert [ranking.advise().order for ranking, _, _ in found].count((("m3",), ("m2",), ("m1",), ("m0",))) >= 7
        stops[choose] = np.median([stop or 9999 for _, stop, _ in found])
    assert stops[True] < 0.85 * stops[False] < 2000


def test_the_forecast_is_about_right_and_equals_are_said_to_be_alike() -> None:
    _, stop, _ = _judge([0.0, 0.7], 5000, 3, look=1)
    assert stop is not None
    early, _, _ = _judge([0.0, 0.7], stop // 2, 3, look=1)
    more = early.advise().more
    assert more is not None
    assert 0.2 < more / (stop - stop // 2) < 5
    tied = AnytimeRanking(["a", "b"], equal_within=0.1)
    for row in range(1500):
        tied.add("b", "a", float(row % 2), str(row))
    advice = tied.advise()
    assert advice.stop
    assert advice.order == (("a", "b"),)
    assert tied.standings()["a", "b"].alike


def test_what_is_known_of_the_ends_gives_the_order_of_those_between() -> None:
    ranking = AnytimeRanking(["a", "b", "c"])
    assert ranking.advise().more is not None
    for row in range(60):
        ranking.add("a", "b", 1.0, f"ab {row}")
        ranking.add("c", "b", 0.0, f"bc {row}")
    advice = ranking.advise()
    assert (advice.stop, advice.order, advice.more) == (True, (("a",), ("b",), ("c",)), 0)
    assert ranking.standings()["a", "c"].rows == 0


def test_the_share_is_that_of_all_judgments_with_each_row_once() -> None:
    ranking = AnytimeRanking(["a", "b"], judges=2)
    for score, row in ((1.0, "1"), (0.0, "1"), (1.0, "2")):
        ranking.add("a", "b", score, row)
    assert ranking.standings()["a", "b"].share == 0.75


def test_only_the_top_must_be_decided_to_stop() -> None:
    ranking = AnytimeRanking(["a", "b", "c", "d"])
    for row in range(80):
        for worse in "bcd":
            ranking.add("a", worse, 1.0, f"{worse}{row}")
    assert ranking.advise(top=1).stop
    assert not ranking.advise(top=2).stop
    assert ranking.advise().order == (("a",), ("b", "c", "d"))


def test_bounds_of_a_mean_hold_at_all_looks_and_refuse_what_is_no_score() -> None:
    chance = np.random.default_rng(5)
    missed = 0
    for _ in range(60):
        bounds = BettingBounds(0.05)
        for score in chance.choice([0.0, 0.5, 1.0], p=[0.1, 0.2, 0.7], size=200):
            bounds.add(float(score))
        missed += not bounds.low <= 0.8 <= bounds.high
        assert bounds.high - bounds.low < 0.35
    assert missed <= 3
    with pytest.raises(ValueError, match=r"1\.5"):
        BettingBounds(0.05).add(1.5)


def test_pairs_that_tell_most_come_first_and_rows_are_spread() -> None:
    models = ("a", "b", "c")
    wins = {("a", "b"): 30.0, ("b", "a"): 30.0, ("a", "c"): 29.0, ("c", "a"): 1.0}
    gains = rank_pairs(models, wins, [("a", "b"), ("b", "c"), ("a", "c")])
    assert max(gains, key=lambda pair: gains[pair]) == ("a", "b")
    assert gains["b", "c"] > gains["a", "c"]  # b and c never met
    settled = rank_pairs(models, wins, [("b", "a")])
    assert settled["a", "b"] > settled["a", "c"]
    assert set(rank_pairs(models, {}, []).values()) == {0.0}
    items = {f"{pair}{row}": (pair, f"row {row}") for pair in gains for row in range(40)}
    order = order_items(items, {("a", "b"): 1.0, ("c", "b"): 0.1, ("a", "c"): 0.0}, {"row 3": 50})
    first = sorted(items, key=lambda item: -order[item])
    assert sum(items[item][0] == ("a", "b") for item in first[:30]) > 20
    assert [items[item][1] for item in first[-3:]].count("row 3") == 3 or first[-1].endswith("3")
    assert order == order_items(items, {("a", "b"): 1.0, ("c", "b"): 0.1, ("a", "c"): 0.0}, {"row 3": 50})
