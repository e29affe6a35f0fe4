"""Rewards that fail: named, timed out, and either fatal or left out and counted."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError, ModelError
from luthier.core.system.process import run_with_timeout
from luthier.tune.reward import Reward, RewardCompletion, RewardContext
from luthier.tune.rewards.text import RegexReward
from luthier.tune.rollout.generate import compute_rewards
from tuning import chat


@dataclass
class Moody:
    """A reward that fails on some answers; no component, so that nobody else finds it."""

    name: str = "mood"
    weight: float = 1.0
    deadline_s: float = 0.2
    on_fault: str = "stop"

    def score(self, attempts: Sequence[RewardCompletion], env: RewardContext) -> list[float]:
        """The number that the answer is, unless it says to fail."""
        found: list[float] = []
        for attempt in attempts:
            if attempt.text == "raise":
                raise ZeroDivisionError("of course")
            if attempt.text == "sleep":
                time.sleep(5)
            if attempt.text == "mine":
                raise DataError("the row is wrong")
            found.append(float(attempt.text) if attempt.text != "none" else None)  # type: ignore[arg-type]  # its fault
        return found if attempts[0].text != "7" else found[:-1]


@pytest.fixture
def place(tmp_path: Path) -> RewardContext:
    return RewardContext(recipe_dir=tmp_path, kept=tmp_path, models=Path)


def said(*texts: str) -> list[RewardCompletion]:
    return [RewardCompletion(chat("a", "b", line), text, 1) for line, text in enumerate(texts, start=2)]


def moody(**fields: Any) -> Reward:
    return Moody(**fields)  # type: ignore[return-value]


def test_rewards_are_weighed_added_and_told_apart(place: RewardContext) -> None:
    found = compute_rewards([moody(weight=2.0), RegexReward(pattern="2", weight=-1.0)], said("1", "2"), place)
    assert found.parts == {"mood": [1.0, 2.0], "regex": [0.0, 1.0]}
    assert found.total == [2.0, 3.0]
    assert not found.faults


@pytest.mark.parametrize(
    ("bad", "why"),
    [("raise", "ZeroDivisionError: of course"), ("sleep", "TimeoutError: no end after 0.2 s"), ("nan", "gave nan"),
     ("inf", "gave inf"), ("x", "ValueError"), ("none", "TypeError")],
)  # fmt: skip
def test_a_fault_stops_or_leaves_out_just_the_answer_that_it_is_about(bad: str, why: str, place: RewardContext) -> None:
    with pytest.raises(ModelError, match=f"the reward mood failed on an answer to example .*{why}") as caught:
        compute_rewards([moody()], said("1", bad, "3"), place)
    assert caught.value.where.line == 3
    assert "leave_out" in caught.value.hint
    found = compute_rewards([moody(on_fault="leave_out"), RegexReward(pattern="3")], said("1", bad, "3"), place)
    assert [math.isnan(total) for total in found.total] == [False, True, False]
    assert found.total[2] == 4.0
    assert found.left_out == 1
    assert why in found.faults["mood"]


def test_too_few_numbers_are_a_fault(place: RewardContext) -> None:
    with pytest.raises(ModelError, match="gave 0 numbers for 1 answers"):
        compute_rewards([moody()], said("7", "8"), place)


def test_what_is_wrong_with_the_users_data_is_said_as_it_is(place: RewardContext) -> None:
    with pytest.raises(DataError, match="the row is wrong"):
        compute_rewards([moody(on_fault="leave_out")], said("mine"), place)


def test_a_pattern_that_explodes_is_stopped(place: RewardContext) -> None:
    slow = RegexReward(pattern="(a+)+$", deadline_s=0.3, on_fault="leave_out")
    found = compute_rewards([slow], said("a" * 40 + "b", "aa"), place)
    assert math.isnan(found.total[0])
    assert found.total[1] == 1.0


def test_work_has_a_deadline_in_any_thread() -> None:
    assert run_with_timeout(5.0, lambda: 7) == 7
    told: list[object] = []

    def elsewhere() -> None:
        told.append(run_with_timeout(5.0, lambda: 8))
        for work in (lambda: time.sleep(2), lambda: 1 / 0):
            try:
                run_with_timeout(0.1, work)
            except (TimeoutError, ZeroDivisionError) as error:
                told.append(type(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert told == [8, TimeoutError, ZeroDivisionError]


def test_a_timer_that_ran_before_goes_on() -> None:
    import signal

    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        assert run_with_timeout(1.0, lambda: "done") == "done"
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 30
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not rang
