"""The standing set: sound questions, grading by the likeliest answer, and what was lost, in pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from eval.evaluations import dataset, example, made
from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError
from luthier.core.step import PlanContext
from luthier.core.store import Store
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.steps.gate import Gate
from luthier.eval.task import TaskContext
from luthier.eval.tasks.forgetting import Forgetting, load_forgetting_questions
from luthier.models.lm.base import Response


def test_questions_are_sound() -> None:
    every = load_forgetting_questions()
    assert 150 <= len(every) <= 200
    assert len({one.question for one in every}) == len(every)
    assert all(len({one.right, *one.wrong}) == 4 for one in every)
    assert {one.kind for one in every} == {"world", "nature", "time", "words", "everyday", "sums", "orders", "copies"}
    for one in every:
        if one.kind == "sums":
            sum_ = one.question.removeprefix("What is ").rstrip("?").replace("plus", "+").replace("minus", "-")
            assert eval(sum_) == int(one.right)


def test_grading(tmp_path: Path) -> None:
    (benchmark,) = Forgetting().benchmarks(TaskContext(recipe_dir=tmp_path, examples=()))
    wrong = [Response(logprob=-4.0 - at, tokens=1) for at in range(3)]
    told = [[Response(logprob=-9.0, tokens=2), *wrong] for _ in benchmark.items]
    told[0][0] = Response(logprob=-3.5, tokens=2)
    graded = benchmark.grade(told)
    assert graded.columns["acc"].each[:2] == (1.0, 0.0)
    assert graded.predictions[:2] == [load_forgetting_questions()[0].right, load_forgetting_questions()[1].wrong[0]]
    assert 0 < graded.columns["share"].each[1] < graded.columns["share"].each[0] < 0.6


def test_a_model_that_tells_nothing_apart_is_not_right(tmp_path: Path) -> None:
    (benchmark,) = Forgetting().benchmarks(TaskContext(recipe_dir=tmp_path, examples=()))
    graded = benchmark.grade([[Response(logprob=-2.0, tokens=1)] * 4 for _ in benchmark.items])
    assert not any(graded.columns["acc"].each)
    assert graded.predictions[0] == load_forgetting_questions()[0].wrong[-1]


@pytest.fixture(scope="module")
def about(store: Store, tuned: Artifact) -> Artifact:
    """An evaluation whose held-out rows are long enough for the standing set to be asked."""
    rows = [
        example(
            f"ticket {number} " + "the parcel is late " * 40,
            ["billing", "delivery"][number % 2],
            ("billing", "delivery")[number % 2],
            number,
        )
        for number in range(24)
    ]
    data = dataset(store, rows[:4], rows[4:])
    step = Evaluate(data="data", model="tune", baselines=(), metrics=("accuracy",))
    return made(store, step, {"data": data, "model": tuned})


def test_it_is_asked_of_both_where_it_is_cheap(about: Artifact) -> None:
    measures = about.read_json("metrics.json")["measures"]
    assert set(measures["tuned"]) == {"forgetting.acc", "forgetting.share", "forgetting.drop"}
    drop = measures["tuned"]["forgetting.drop"]
    assert drop["value"] == pytest.approx(
        measures["base"]["forgetting.acc"]["value"] - measures["tuned"]["forgetting.acc"]["value"]
    )
    assert drop["low"] <= drop["value"] <= drop["high"]
    assert drop["detectable"] > 0
    frame = pl.read_parquet(about.path("tasks.parquet"))
    hits = [json.loads(one)["acc"] for one in frame.filter(pl.col("model") == "base")["scores"]]
    assert sum(hits) / len(hits) == pytest.approx(measures["base"]["forgetting.acc"]["value"])


def test_gates_hold_it(store: Store, about: Artifact) -> None:
    gate = made(
        store,
        Gate(evaluation="report", rules=("forgetting.drop <= 0.9", "forgetting.acc >= base - 0.9")),
        {"evaluation": about},
    )
    assert [rule["verdict"] for rule in gate.read_json("gate.json")["rules"]] == ["PASS", "PASS"]


def test_few_rows_do_not_ask_it(store: Store, labels: Artifact, tuned: Artifact) -> None:
    found = made(
        store, Evaluate(data="data", model="tune", limit=5, metrics=("accuracy",)), {"data": labels, "model": tuned}
    )
    assert found.read_json("metrics.json")["measures"] == {}


@pytest.mark.parametrize(("tasks", "rule"), [((), "forgetting.drop <= 0.1"), (("forgetting",), "arc.acc >= 0.1")])
def test_a_rule_about_what_is_not_asked_is_refused_before_the_run(tasks: Any, rule: str) -> None:
    evaluation = Evaluate(data="data", model="tune", tasks=tasks)
    with pytest.raises(RecipeError, match="does not measure"):
        Gate(evaluation="report", rules=(rule,)).estimate_cost(
            PlanContext(inputs={}, upstream={"evaluation": evaluation}, recipe_dir=Path())
        )
