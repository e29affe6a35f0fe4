"""What a search says of how much each setting matters."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from luthier.artifacts.search import TrialRow
from luthier.auto.search.importance import measure_importance, rank_trials_by_rung

SPACE: dict[str, dict[str, dict[str, Any]]] = {
    "lora": {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "technique.r": {"low": 2, "high": 64, "log": True, "integer": True},
        "data.ops.quality": {"values": [True, False]},
        "passes": {"values": [3, 1, 2]},
    },
    "ia3": {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}},
}


def trials(count: int = 60, seed: int = 0) -> list[TrialRow]:
    """Only the learning rate and the technique matter."""
    chance = random.Random(seed)
    found = []
    for trial in range(count):
        branch = chance.choice(("lora", "ia3"))
        rate = 10 ** chance.uniform(-5, -2)
        settings = {"technique": branch, "learning_rate": rate}
        if branch == "lora":
            settings |= {
                "technique.r": chance.randint(2, 64),
                "data.ops.quality": chance.random() < 0.5,
                "passes": chance.choice((1, 2, 3)),
            }
        value = (0.8 if branch == "lora" else 0.5) - 50 * abs(rate - 3e-3) + chance.gauss(0, 0.005)
        found.append(TrialRow(trial=trial, rung=0, share=0.25, settings=settings, value=value))
        if value > 0.75:
            found.append(TrialRow(trial=trial, rung=1, share=1.0, settings=settings, value=value + 0.05))
    return found


def test_what_matters_is_found_in_each_branch_and_in_their_choice() -> None:
    found = measure_importance(trials(), SPACE, "higher")
    by_branch = {branch: [one for one in found if one.branch == branch] for branch in ("", "lora", "ia3")}
    assert [(one.setting, one.share, one.trials) for one in by_branch[""]] == [("technique", 1.0, 60)]
    assert by_branch["lora"][0].setting == "learning_rate"
    assert by_branch["lora"][0].share > 0.5
    assert [one.setting for one in by_branch["ia3"]] == ["learning_rate"]
    for own in by_branch.values():
        assert sum(one.share for one in own) == pytest.approx(1, abs=1e-5)


def test_the_same_trials_in_any_order_say_the_same() -> None:
    rows = trials()
    assert measure_importance(rows[::-1], SPACE, "higher") == measure_importance(rows, SPACE, "higher")


def test_less_is_better_is_the_same_upside_down() -> None:
    turned = [row.model_copy(update={"value": -float(row.value or 0)}) for row in trials()]
    assert measure_importance(turned, SPACE, "lower") == measure_importance(trials(), SPACE, "higher")


def test_later_rungs_stand_before_earlier_ones() -> None:
    rows = [
        TrialRow(trial=0, rung=0, share=0.5, settings={}, value=0.9),
        TrialRow(trial=1, rung=0, share=0.5, settings={}, value=0.8),
        TrialRow(trial=1, rung=1, share=1.0, settings={}, value=0.7),
        TrialRow(trial=2, rung=0, share=0.5, settings={}, failed="out of memory"),
    ]
    assert [row.trial for row in rank_trials_by_rung(rows, "higher")] == [1, 0]


def test_of_few_trials_nothing_is_told() -> None:
    assert measure_importance(trials(7), {"lora": SPACE["lora"]}, "higher") == ()
    assert measure_importance([], SPACE, "higher") == ()


def test_values_outside_the_space_are_left_out() -> None:
    odd = TrialRow(trial=99, rung=0, share=1, settings={"technique": "ia3", "learning_rate": 5.0}, value=0.1)
    assert measure_importance([*trials(), odd], SPACE, "higher")


def test_optuna_is_not_loaded_before_it_is_needed() -> None:
    said = "import sys, luthier.auto.search.importance; print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
