"""Forecasts count what a training reads: both answers of a pair, and what a policy writes before it learns it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.core.step import Forecast, Outlook
from luthier.text.ids import Text
from luthier.tune.objective import Objective
from luthier.tune.objectives.dpo import Dpo
from luthier.tune.objectives.sft import Sft
from luthier.tune.steps.tune import Tune
from tuning import Bench, bench, pairs

SPEED = {"measures": {"flops_per_s": 1e6, "begin_s": 0.0}}


def told(shop: Bench, objective: Any) -> Forecast:
    step = Tune(data="data", objective=objective)
    inputs = {"data": shop.data, "model": shop.base}
    return step.foresee(Outlook(inputs=inputs, upstream={}, base=shop.base.folder, history=SPEED))


@pytest.fixture
def shop(tmp_path: Path) -> Bench:
    return bench(tmp_path, pairs(24))


def test_the_other_answer_of_a_pair_is_counted(shop: Bench) -> None:
    """A pair is its conversation and the other answer, as the prompt is read once."""
    text, objective = Text.load(shop.base.folder), Dpo()
    lessons = [lesson.rows for lesson in objective.lessons(pairs(24), text)]
    answers = sum(len(rows[0].ids) + len(rows[1].targets) for rows in lessons)
    found, single = told(shop, objective), told(shop, Sft())
    assert found.tokens == pytest.approx(answers, rel=0.15)
    assert (found.tokens or 0) > 1.05 * (single.tokens or 0)
    assert (found.seconds or 0) > (single.seconds or 0)


def test_what_a_policy_writes_is_counted_when_it_is_written_and_when_it_is_learnt(shop: Bench) -> None:
    def drawing(samples: int) -> Forecast:
        drawn = {"samples": samples, "max_new_tokens": 50}
        return told(shop, Objective.parse({"kind": "grpo", "rewards": ["exact"], "rollout": drawn}))

    few, many = drawing(2), drawing(10)
    assert (many.tokens or 0) - (few.tokens or 0) == pytest.approx(24 * 8 * 50)
    assert (many.seconds or 0) > 2 * (few.seconds or 0)
    assert "answers as long as they may be" in many.how


def test_a_critic_costs_an_adapter_and_a_second_learning(shop: Bench) -> None:
    plain, valued = (told(shop, Objective.parse({"kind": kind, "rewards": ["exact"]})) for kind in ("grpo", "ppo"))
    assert plain.tokens == valued.tokens
    assert 1.2 < (valued.seconds or 0) / (plain.seconds or 1) < 2
    assert (valued.peak_bytes or 0) > (plain.peak_bytes or 0)
