"""The step `curve`: what it measures and foretells, what gates and labelling do with it, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from luthier.artifacts.dataset import DatasetSummary
from luthier.artifacts.findings import Finding, FindingNumber, Findings, read_findings, read_flagged_rows
from luthier.auto.steps.curve import Curve
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, RecipeError
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.eval.steps.evaluate import Evaluate
from luthier.recipe.schema import Recipe
from luthier.tune.steps.tune import Tune
from tiny_models import tickets, write_csv

QUICK = {"sizes": [0.25, 0.5, 1.0], "repeats": 2}
Rows = list[dict[str, str]]
Runner = Callable[..., dict[str, Artifact]]


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """Run a recipe over rows: `run(rows, curve={…}, split={…}, steps={…})`, and give all artifacts by step."""

    def made(
        rows: Rows, curve: dict[str, Any], split: dict[str, int] | None = None, steps: dict[str, Any] | None = None
    ) -> dict[str, Artifact]:
        write_csv(tmp_path / "rows.csv", rows)
        source = {"kind": "csv", "path": "rows.csv", "prompt": "message", "answer": "category"}
        data = {
            "kind": "prepare",
            "source": source,
            "split": {"test": 0, **(split or {})},
            "task": "label",
            "min_classes": 1,
        }
        every = {"data": data, **(steps or {}), "curve": {"kind": "curve", "data": "data", **curve}}
        text = yaml.safe_dump({"luthier": 1, "name": "curves", "seed": 3, "steps": every})
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        result = Recipe.load(tmp_path / "recipe.yaml").run(on="local")
        return {name: result[name].artifact for name in every}

    return made


def said(artifact: Artifact) -> dict[str, Finding]:
    return {one.name: one for one in read_findings(artifact).findings}


def noisy(count: int) -> Rows:
    """Tickets of which every ninth bears a wrong class, from two channels."""
    rows = tickets(count)
    wrong = {"billing": "delivery", "delivery": "account", "account": "billing"}
    for at, row in enumerate(rows):
        row["channel"] = "mail" if at % 2 else "web"
        row["category"] = wrong[row["category"]] if at % 9 == 0 else row["category"]
    return rows


def test_the_curve_the_target_and_cleaning_are_told(run: Runner) -> None:
    settings = {**QUICK, "target": "macro_f1 >= 0.5", "seconds_per_label": 36.0, "add": 200}
    artifact = run(noisy(300), settings, {"validation": 60})["curve"]
    found, numbers = said(artifact), read_findings(artifact).numbers
    assert "With 240 training rows the plain classifier has macro_f1" in found["curve"].sentence
    assert "Labelling them takes about 2.4 hours" in found["curve"].sentence
    table = found["curve"].tables[0]
    assert [row[0] for row in table.rows] == [60, 120, 240, 360, 480, 720, 960]
    assert all(row[3] <= row[2] <= row[4] for row in table.rows)  # type: ignore[operator]  # numbers
    assert numbers["curve.doubled"].value == pytest.approx(
        numbers["curve.value"].value + numbers["curve.gain"].value, abs=1e-4
    )
    assert found["curve.target"].sentence == "macro_f1 >= 0.5 is reached with 240 rows."
    assert numbers["curve.target_chance"].value > 0.9
    assert numbers["curve.doubtful"].value > 0.03
    marked = list(read_flagged_rows(artifact))
    assert len(marked) == found["curve.clean"].rows > 10
    assert {mark.split for mark in marked} == {"train"}
    assert set(Curve(data="data", target="macro_f1 >= 0.5").measured() or ()) <= set(numbers)


def test_the_same_rows_make_the_same_bytes(run: Runner, tmp_path: Path) -> None:
    first = run(noisy(200), {**QUICK, "by": "class"}, {"validation": 50})["curve"].manifest.files
    (tmp_path / ".luthier").rename(tmp_path / "before")
    assert run(noisy(200), {**QUICK, "by": "class"}, {"validation": 50})["curve"].manifest.files == first


def test_classes_and_columns_have_curves_of_their_own(run: Runner) -> None:
    by_class = said(run(noisy(300), {**QUICK, "by": "class"}, {"validation": 80})["curve"])["curve.by"]
    assert {row[0] for row in by_class.tables[0].rows} == {"account", "billing", "delivery"}
    gains = [row[4] for row in by_class.tables[0].rows]
    assert gains == sorted(gains, reverse=True)  # type: ignore[type-var]  # numbers
    assert "curve.gain.billing" in by_class.numbers
    by_column = said(run(noisy(300), {**QUICK, "by": "channel"}, {"validation": 80})["curve"])["curve.by"]
    assert {row[0] for row in by_column.tables[0].rows} == {"mail", "web"}
    with pytest.raises(RecipeError, match="no 'country'"):
        run(noisy(300), {**QUICK, "by": "country"}, {"validation": 80})


def test_a_target_beyond_the_laws_is_said_to_be_so(run: Runner) -> None:
    found = said(run(noisy(300), {**QUICK, "target": "accuracy >= 1"}, {"validation": 80})["curve"])["curve.target"]
    assert found.severity == "warning"
    assert "not reachable by these laws with up to 220,000 rows" in found.sentence
    assert found.numbers["curve.rows_to_target"].value == 220_000


@pytest.mark.parametrize(
    ("rows", "why"),
    [(tickets(20), "are too few"), ([{**row, "category": "billing"} for row in tickets(120)], "have one class")],
)
def test_without_a_curve_no_gate_decides(run: Runner, rows: Rows, why: str) -> None:
    gate = {"kind": "gate", "findings": "curve", "rules": ["curve.gain < 2%", "curve.value > 0.5"]}
    made = run(
        rows, {**QUICK, "target": "accuracy >= 0.9"}, {"validation": 30 if len(rows) > 20 else 5}, {"gate": gate}
    )
    assert why in said(made["curve"])["curve"].sentence
    assert made["gate"].read_json("gate.json")["verdict"] == "INCONCLUSIVE"


def test_without_held_out_rows_every_fourth_training_row_measures(run: Runner) -> None:
    artifact = run(noisy(200), QUICK)["curve"]
    assert "every fourth training row" in read_findings(artifact).skipped["held-out rows"]
    assert "With 150 training rows" in said(artifact)["curve"].sentence
    with pytest.raises(DataError, match="no split 'test'"):
        run(noisy(200), {**QUICK, "split": "test"})


def test_a_metric_of_scores_is_measured_and_one_of_texts_refused(run: Runner) -> None:
    found = said(run(noisy(200), {**QUICK, "metric": "brier"}, {"validation": 60})["curve"])["curve"]
    assert found.numbers["curve.doubled"].value <= found.numbers["curve.value"].value, "of brier, lower is better"
    with pytest.raises(RecipeError, match="rougeL is about texts"):
        run(noisy(200), {**QUICK, "metric": "rougeL"}, {"validation": 60})


def test_a_model_is_trained_and_evaluated_at_each_size(run: Runner) -> None:
    steps = {"tune": {"kind": "tune", "data": "data", "technique": "plain"}}
    settings = {"of": "tune", "sizes": [0.25, 0.5, 1.0], "metric": "accuracy"}
    model = said(run(noisy(240), settings, {"validation": 60}, steps)["curve"])
    plain = said(run(noisy(240), {**QUICK, "metric": "accuracy"}, {"validation": 60})["curve"])
    assert model["curve"].tables[0].rows[2][:3] == plain["curve"].tables[0].rows[2][:3], "all rows, the same classifier"
    assert "the model of 'tune'" in model["curve"].sentence


def test_what_is_no_training_of_these_rows_is_refused_when_it_is_planned(tmp_path: Path) -> None:
    tune = Tune.model_validate({"kind": "tune", "data": "others", "technique": "plain"})
    for upstream, why in (({"of": tune}, "learns from 'others'"), ({"of": Evaluate(data="data")}, "of kind evaluate")):
        context = PlanContext(inputs={}, upstream=upstream, recipe_dir=tmp_path)
        with pytest.raises(RecipeError, match=why):
            Curve(data="data", of="tune").estimate_cost(context)
    texts = PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path, outlines={"data": ArtifactSpec(task="text")})
    with pytest.raises(RecipeError, match="free text"):
        Curve(data="data").estimate_cost(texts)


def test_rows_are_chosen_for_labelling_until_a_batch_brings_too_little(run: Runner) -> None:
    def sample(least: float) -> dict[str, Any]:
        step = {"kind": "sample_for_labeling", "data": "data", "by": "random", "count": 7}
        return {"more": {**step, "curve": "curve", "min_gain": least}}

    some = run(noisy(200), QUICK, {"validation": 60}, sample(1e-9))["more"]
    none = run(noisy(200), QUICK, {"validation": 60}, sample(0.9))["more"]
    assert DatasetSummary.read(none).rows == {}
    assert "enough" in DatasetSummary.read(none).dropped
    assert DatasetSummary.read(some).rows in ({"train": 7}, {})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"sizes": [0.25, 0.5]}, "at least 3"),
        ({"sizes": [0.25, 0.5, 0.75]}, "add 1.0"),
        ({"sizes": [0.5, 0.5, 1.0]}, "different shares"),
        ({"of": "tune", "repeats": 3}, "leave `repeats` out"),
        ({"target": "accuracy <= 0.9"}, "higher is better"),
        ({"target": "accuracy > base"}, "a metric with a number"),
        ({"target": "accuracy >= 0.9", "metric": "macro_f1"}, "macro_f1 is measured"),
        ({"target": "nonsense"}, "unknown"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Curve.model_validate({"kind": "curve", "data": "data", **settings})


def test_numbers_of_findings_may_be_gated_on_by_name() -> None:
    number = FindingNumber(value=0.1, low=0.0, high=0.2, about="x")
    finding = Finding(name="curve", severity="info", title="Rows", sentence="So.", numbers={"curve.gain": number})
    assert Findings(rows=1, looked_at=1, findings=(finding,)).numbers["curve.gain"] == number
