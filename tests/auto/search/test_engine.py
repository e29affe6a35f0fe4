"""The search on simulated tables: budgets, rungs, order, replay, failures, small spaces."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.auto.search.engine import SearchEngine, SearchFailed, TrialRequest, TrialResult
from luthier.core.errors import RecipeError
from luthier.core.param_space import ParamDistribution

ROWS = 300
Settings = Mapping[str, Any]


class Space:
    """A space with a refusal, as the engine reads it."""

    def __init__(
        self, branches: Mapping[str, Mapping[str, ParamDistribution]], refuse: Callable[[Settings], bool] | None = None
    ):
        self.branches, self._refuse = branches, refuse
        first = next(iter(branches))
        self.default = {"technique": first, **{path: _middle(one) for path, one in branches[first].items()}}

    def refuses(self, settings: Settings) -> str:
        """Why settings are not tried."""
        return "refused" if self._refuse is not None and self._refuse(settings) else ""

    def identify(self, settings: Settings) -> str:
        """Settings of the operator count where it is there."""
        is_off = settings.get("data.ops.quality") is False
        return repr(sorted((path, value) for path, value in settings.items() if not (is_off and "quality." in path)))


def _middle(one: ParamDistribution) -> Any:
    return one.values[len(one.values) // 2] if one.values else one.high if one.integer else (one.low * one.high) ** 0.5


RATES = ParamDistribution(low=1e-5, high=1e-1, log=True)
TWO = {
    "lora": {"learning_rate": RATES, "technique.r": ParamDistribution(values=(4, 8, 16, 32))},
    "ia3": {"learning_rate": RATES, "data.ops.quality": ParamDistribution(values=(True, False))},
}


def cost_of(tried: Settings, share: float) -> float:
    """Work in trainings: `ia3` takes less."""
    return share * (0.5 if tried["technique"] == "ia3" else 1.0)


def train(request: TrialRequest, before: float = 0.0) -> TrialResult:
    """A training whose quality has a peak at a rate of 1e-3, and grows with the share."""
    tried = request.settings
    distance = abs(np.log10(tried.get("learning_rate", 1e-3)) + 3)
    skill = 0.9 - 0.1 * distance - 0.1 * (1 - request.share) - 0.05 * (tried["technique"] == "ia3")
    rows = np.random.default_rng([request.trial, 5]).random(ROWS) < skill
    work = cost_of(tried, request.share) - before
    score = rows.astype(np.float64)
    return TrialResult(trial=request.trial, rung=request.rung, value=float(score.mean()), rows=score, work=work)


Asked = list[tuple[int, Any, int, float]]


def run(engine: SearchEngine, *, order: int = 0, one_by_one: bool = False) -> tuple[Asked, list[TrialResult]]:
    """Drive a search to its end; results are told in an order drawn from `order`."""
    asked, told = Asked(), list[TrialResult]()
    while requests := engine.ask():
        asked += [(one.trial, dict(one.settings), one.rung, one.share) for one in requests]
        before = [cost_of(one.settings, engine.shares[one.rung - 1]) if one.rung else 0.0 for one in requests]
        results = [train(one, work) for one, work in zip(requests, before, strict=True)]
        told += results
        random.Random(order).shuffle(results)
        for result in [[one] for one in results] if one_by_one else [results]:
            engine.tell(result)
            if one_by_one and len(results) > 1 and result != [results[-1]]:
                assert {one.trial for one in engine.ask()} <= {one.trial for one in requests}
    return asked, told


def build(budget: float = 8, seed: int = 0, space: Space | None = None, **more: Any) -> SearchEngine:
    """A search of the usual space."""
    given: Any = space or Space(TWO)
    return SearchEngine(given, budget=budget, seed=seed, work_of=cost_of, **more)


def test_the_first_trial_has_the_settings_of_the_step_and_advice_follows() -> None:
    advice = {"technique": "ia3", "learning_rate": 2e-3, "data.ops.quality": False}
    engine = build(first=[advice])
    requests = engine.ask()
    assert requests[0].settings == engine.trials[0] == Space(TWO).default
    assert requests[1].settings == advice
    assert len(requests) == 6
    assert {one.share for one in requests} == {1 / 9}


def test_both_branches_are_tried_and_the_better_one_more_often() -> None:
    asked, _ = run(build(budget=20, least_gain=0))
    tried = [one[1]["technique"] for one in asked if one[2] == 0]
    assert tried.count("lora") > tried.count("ia3") >= 5


def test_a_search_finds_what_is_good() -> None:
    for seed in range(5):
        engine = build(budget=8, seed=seed)
        run(engine)
        best = engine.trials[engine.finalists[0]]
        assert best["technique"] == "lora"
        assert 1e-4 < best["learning_rate"] < 1e-2


def test_settings_of_what_is_switched_off_make_one_trial() -> None:
    branch = {
        "data.ops.quality": ParamDistribution(values=(True, False)),
        "data.ops.quality.action": ParamDistribution(values=("drop", "flag", "fix")),
    }
    engine = build(budget=20, space=Space({"lora": branch}), least_gain=0)
    run(engine)
    tried = [one["data.ops.quality"] for one in engine.trials]
    assert (tried.count(True), tried.count(False)) == (3, 1)
    assert engine.end == "the space has no further settings"


@settings(max_examples=8, deadline=None)
@given(order=st.integers(0, 999), seed=st.integers(0, 3), one_by_one=st.booleans())
def test_the_order_of_results_decides_nothing(order: int, seed: int, one_by_one: bool) -> None:
    expected = build(budget=5, seed=seed)
    engine = build(budget=5, seed=seed)
    assert run(expected)[0] == run(engine, order=order, one_by_one=one_by_one)[0]
    assert expected.finalists == engine.finalists


@settings(max_examples=8, deadline=None)
@given(budget=st.floats(2, 30), reserved=st.floats(0, 1.4), seed=st.integers(0, 99))
def test_a_budget_is_never_overrun(budget: float, reserved: float, seed: int) -> None:
    engine = build(budget=budget, seed=seed, reserved=reserved)
    asked, told = run(engine)
    assert sum(one.work for one in told) <= budget - reserved + 1e-6
    assert engine.remaining == pytest.approx(budget - reserved - sum(one.work for one in told))
    assert len({(one[0], one[2]) for one in asked}) == len(asked)
    keys = [str(sorted(engine.trials[trial].items())) for trial in range(len(engine.trials))]
    assert len(set(keys)) == len(keys)


def test_recorded_results_are_replayed_whenever_they_are_told() -> None:
    asked, told = run(build())
    for kept in range(0, len(told), 7):
        engine = build()
        engine.tell(told[:kept])
        rest, _ = run(engine)
        assert rest == asked[kept:]


def test_a_larger_budget_begins_with_the_rounds_of_the_smaller_one() -> None:
    small, told = run(build(budget=5, least_gain=0))
    engine = build(budget=14, least_gain=0)
    whole, _ = run(engine)
    rounds = max(place for place, one in enumerate(small) if one[2] == 0) + 1
    assert rounds >= 18
    assert small[:rounds] == whole[:rounds]
    enlarged = build(budget=14, least_gain=0)
    enlarged.tell(told)
    assert len(enlarged.ask()) < len(whole)


def test_only_the_better_half_goes_on_and_nothing_clearly_worse() -> None:
    engine = build(budget=8)
    first = engine.ask()
    values = [0.9, 0.5, 0.895, 0.6, 0.5, 0.89]
    rows = [(np.arange(ROWS) < value * ROWS).astype(np.float64) for value in values]
    engine.tell([_told(one, row) for one, row in zip(first, rows, strict=True)])
    going_on = engine.ask()
    assert [one.trial for one in going_on] == [0, 2, 5]
    assert {one.rung for one in going_on} == {1}
    engine = build(budget=8)
    first = engine.ask()
    values[2] = 0.7
    rows = [(np.arange(ROWS) < value * ROWS).astype(np.float64) for value in values]
    engine.tell([_told(one, row) for one, row in zip(first, rows, strict=True)])
    assert [one.trial for one in engine.ask()] == [0, 5]


def _told(request: TrialRequest, rows: Any, failed: str = "") -> TrialResult:
    value = float(np.mean(rows)) if not failed else float("nan")
    return TrialResult(
        trial=request.trial, rung=request.rung, value=value, rows=rows, work=request.share * 0.4, failed=failed
    )


def test_graded_rows_are_compared_by_their_differences() -> None:
    engine = build(budget=8)
    first = engine.ask()
    noise = np.random.default_rng(0).normal(size=ROWS) * 0.1
    engine.tell([_told(one, noise - one.trial * 0.5) for one in first])
    assert [one.trial for one in engine.ask()] == [0]


def test_a_trial_without_rows_is_compared_by_its_value_alone() -> None:
    engine = build(budget=8)
    first = engine.ask()
    engine.tell([TrialResult(trial=o.trial, rung=0, value=-o.trial, rows=None, work=0.1) for o in first])
    assert [one.trial for one in engine.ask()] == [0, 1, 2]


def test_ties_go_on_as_far_as_the_budget_allows() -> None:
    engine = build(budget=4.0)
    rows, asked = np.ones(ROWS), list[TrialRequest]()
    while requests := engine.ask():
        asked += requests
        engine.tell(
            [TrialResult(trial=o.trial, rung=o.rung, value=1.0, rows=rows, work=_further(engine, o)) for o in requests]
        )
    assert engine.end
    assert sum(1 for one in asked if one.share == 1) >= 2
    assert engine.remaining < 1 / 9 + 0.5


def _further(engine: SearchEngine, request: TrialRequest) -> float:
    before = cost_of(request.settings, engine.shares[request.rung - 1]) if request.rung else 0.0
    return cost_of(request.settings, request.share) - before


def test_failed_trials_are_the_worst_and_not_the_end() -> None:
    engine = build(budget=10)
    while requests := engine.ask():
        engine.tell(
            [
                TrialResult(trial=o.trial, rung=o.rung, value=float("nan"), rows=None, work=0.1, failed="diverged")
                if o.trial % 2
                else train(o)
                for o in requests
            ]
        )
    assert engine.finalists
    assert all(number % 2 == 0 for number in engine.finalists)
    assert len(engine.trials) > 6


def test_all_failing_is_one_error_with_the_reasons() -> None:
    engine = build()
    engine.tell([_told(one, None, failed="out of memory") for one in engine.ask()])
    with pytest.raises(SearchFailed, match="all 6 trials failed: out of memory"):
        engine.ask()
    with pytest.raises(SearchFailed):
        engine.ask()


def test_a_trial_that_fails_at_a_higher_rung_does_not_count() -> None:
    engine = build(budget=8)
    engine.tell([train(one) for one in engine.ask()])
    second = engine.ask()
    engine.tell([_told(one, None, failed="died") for one in second])
    while requests := engine.ask():
        engine.tell([train(one) for one in requests])
    assert not {one.trial for one in second} & set(engine.finalists)


def test_a_value_that_is_no_number_is_a_failure() -> None:
    engine = build(budget=8)
    first = engine.ask()
    nan = TrialResult(trial=0, rung=0, value=float("nan"), rows=None, work=0.1)
    engine.tell([nan, *(train(one) for one in first[1:])])
    assert 0 not in {one.trial for one in engine.ask()}


@pytest.mark.parametrize("budget", [0, 1, 1.99, -3, float("nan"), float("inf")])
def test_a_budget_below_two_trials_is_refused(budget: float) -> None:
    with pytest.raises(RecipeError, match="at least 2 whole trainings"):
        build(budget=budget)


def test_a_budget_that_finalists_take_is_refused() -> None:
    with pytest.raises(RecipeError, match="the finalists' own trainings take 9"):
        build(budget=9, reserved=9)


def test_small_budgets_have_fewer_rungs() -> None:
    assert build(budget=8).shares == (1 / 9, 1 / 3, 1.0)
    assert build(budget=2).shares == (1 / 9, 1 / 3, 1.0)
    assert 3 <= len(build(budget=2, reserved=0.5, space=Space({"lora": TWO["lora"]})).ask()) < 6
    assert build(budget=2, reserved=1).shares == (1 / 9, 1 / 3)
    assert build(budget=2, reserved=1.6).shares == (1 / 9,)
    assert 3 <= len(build(budget=2, reserved=1.6).ask()) < 6


def test_a_space_of_one_point_ends_after_trial_0() -> None:
    for space in (Space({"lora": {}}), Space({"lora": {"technique.r": ParamDistribution(values=(8,))}})):
        engine = build(space=space)
        asked, _ = run(engine)
        assert {one[0] for one in asked} == {0}
        assert engine.end == "the space has no further settings"
        assert engine.finalists == [0]


def test_a_small_space_is_tried_once_each() -> None:
    points = {
        "lora": {"technique.r": ParamDistribution(values=(4, 8, 16)), "mix": ParamDistribution(values=([1], [2]))}
    }
    engine = build(space=Space(points), budget=30)
    run(engine)
    assert len(engine.trials) == 6


def test_what_parts_refuse_is_never_tried() -> None:
    engine = build(space=Space(TWO, lambda tried: tried.get("technique.r") == 4), budget=12)
    asked, _ = run(engine)
    assert not [one for one in asked if one[1].get("technique.r") == 4]


def test_a_search_stops_when_another_round_is_expected_to_bring_nothing() -> None:
    engine = build(budget=200)
    rows = np.ones(ROWS)
    while requests := engine.ask():
        engine.tell([TrialResult(trial=o.trial, rung=o.rung, value=1.0, rows=rows, work=o.share) for o in requests])
    assert engine.end == "another round is expected to improve too little"
    assert engine.remaining > 150


def test_two_results_of_one_training_that_differ_are_refused() -> None:
    engine = build()
    request = engine.ask()[0]
    engine.tell([train(request)])
    engine.tell([train(request)])
    with pytest.raises(RecipeError, match="two results at rung 0"):
        engine.tell([TrialResult(trial=0, rung=0, value=0.1, rows=None, work=0.1)])


def test_finalists_are_not_clearly_worse_than_the_best() -> None:
    engine = build(budget=20, finalists=5)
    run(engine)
    values: Sequence[int] = engine.finalists
    assert 1 <= len(values) <= 5
    assert len(set(values)) == len(values)
    assert build(budget=8).finalists == []
