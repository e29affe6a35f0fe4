"""Predictions for new rows: what `evaluate` measured is what `predict` says, from Python and by the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from luthier.artifacts.dataset import read_examples
from luthier.cli.app import run_command
from luthier.core.errors import DataError, ModelError, UnknownName
from luthier.recipe.runner import RunResult
from luthier.recipe.schema import Recipe
from tests.tiny_models import RECIPE, small_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """A recipe with a prompt of two columns and a system message, and what its run made."""
    folder = tmp_path_factory.mktemp("predict")
    text = RECIPE.replace(
        "prompt: message, answer: category", 'prompt: "{message} ({customer})", answer: category, system: "Sort it."'
    )
    path = small_recipe(folder, text)
    return path, Recipe.load(path).run(progress=False)


def test_predictions_equal_those_of_the_evaluation(made: tuple[Path, RunResult]) -> None:
    _, result = made
    asked = read_examples(result["data"].artifact, "test")
    told = result["tune"].predict([example.messages[:-1] for example in asked])
    frame = result["report"].frame("predictions.parquet")
    mine = frame.filter(frame["model"] == "tuned") if "model" in frame.columns else frame
    known = dict(zip(mine["id"].to_list(), mine["prediction"].to_list(), strict=True))
    assert [one.prediction for one in told] == [known[example.id] for example in asked]
    for one in told:
        assert one.probabilities is not None
        assert sum(one.probabilities.values()) == pytest.approx(1.0)
        assert one.probability == max(one.probabilities.values())


def test_columns_fill_the_recipes_template_and_get_its_system_message(made: tuple[Path, RunResult]) -> None:
    _, result = made
    example = read_examples(result["data"].artifact, "test")[0]
    by_turns = result["tune"].predict([example.messages[:-1]])
    message, _, customer = example.messages[1].content.rpartition(" (")
    row = {"message": message, "customer": customer.removesuffix(")")}
    assert result["tune"].predict([row])[0].probabilities == by_turns[0].probabilities
    text = result["tune"].predict([example.messages[1].content])
    assert text[0].probabilities == by_turns[0].probabilities


def test_a_row_without_a_column_of_the_template_is_named(made: tuple[Path, RunResult]) -> None:
    with pytest.raises(DataError, match="'customer'") as refused:
        made[1]["tune"].predict([{"message": "hi", "customers": "C-1"}])
    assert "row 1" in str(refused.value)
    assert "customers" in refused.value.hint


def test_only_models_predict(made: tuple[Path, RunResult]) -> None:
    with pytest.raises(ModelError, match="makes a dataset"):
        made[1]["data"].predict(["hi"])


def test_metrics_of_an_evaluation(made: tuple[Path, RunResult]) -> None:
    found = made[1]["report"].metrics
    assert 0 <= found["accuracy"]["low"] <= found["accuracy"]["value"] <= found["accuracy"]["high"] <= 1
    with pytest.raises(ModelError, match="not an evaluation"):
        _ = made[1]["tune"].metrics
    with pytest.raises(UnknownName):
        _ = made[1]["reports"]


def test_a_result_prints_as_a_table(made: tuple[Path, RunResult]) -> None:
    lines = str(made[1]).splitlines()
    assert lines[0].split() == ["step", "kind", "state", "time", "artifact"]
    assert [line.split()[:2] for line in lines[1:6]] == [
        ["data", "prepare"], ["model", "base"], ["tune", "tune"], ["report", "evaluate"], ["gate", "gate"]
    ]  # fmt: skip
    assert repr(made[1]) == str(made[1])
    assert any("accuracy" in line for line in lines[6:])


def test_run_shows_progress_unless_told_not_to(
    made: tuple[Path, RunResult], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.load(made[0])
    recipe.run()
    assert "tune: already made" in capsys.readouterr().err
    recipe.run(progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_command_writes_what_score_reads(
    made: tuple[Path, RunResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, result = made
    out = tmp_path / "predictions.jsonl"
    assert run_command(["predict", f"{recipe}:tune", str(recipe.parent / "tickets.csv"), "--to", str(out)]) == 0
    capsys.readouterr()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 90
    assert rows[0]["id"] == "tickets.csv:2"
    assert rows[0].keys() == {"id", "prediction", "reference", "label_scores"}
    assert run_command(["score", str(out), "--metric", "accuracy", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]["value"]
    assert scored == pytest.approx(sum(row["prediction"] == row["reference"] for row in rows) / 90)
    again = result["tune"].predict([{"message": "Where is it?", "customer": "C-1"}])
    assert again[0].prediction in rows[0]["label_scores"]


def test_the_command_writes_a_table_and_names_rows_that_ask_nothing(
    made: tuple[Path, RunResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "new.csv"
    source.write_text("message,customer,note\n=cmd(),C-1,a\n,,b\nMy parcel is late,C-2,c\n")
    out = tmp_path / "told.csv"
    assert run_command(["predict", f"{made[0]}:tune", str(source), "--prompt", "message", "--to", str(out)]) == 0
    assert "new.csv:3" in capsys.readouterr().err
    with out.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == ["a", "c"]
    assert rows[0]["message"] == "'=cmd()"
    assert all(0 < float(row["probability"]) <= 1 for row in rows)


def test_a_base_model_writes_answers(made: tuple[Path, RunResult]) -> None:
    told = made[1]["model"].predict(["Where is my parcel?"], max_new_tokens=4)
    assert told[0].probabilities is None
    assert told[0].finished is not None


@pytest.mark.parametrize("ending", ["xlsx", ""])
def test_other_endings_are_refused_before_anything_is_lost(
    made: tuple[Path, RunResult], tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    out = tmp_path / f"told.{ending}"
    source = str(made[0].parent / "tickets.csv")
    assert run_command(["predict", f"{made[0]}:tune", source, "--to", str(out)]) == 2
    assert ".jsonl or .csv" in capsys.readouterr().err


def test_a_plain_classifier_predicts_as_it_was_measured(made: tuple[Path, RunResult]) -> None:
    plain = ["steps.tune={kind: tune, data: data, technique: plain}"]
    result = Recipe.load(made[0], plain).run(progress=False)
    asked = read_examples(result["data"].artifact, "test")
    told = result["tune"].predict([example.messages[:-1] for example in asked])
    hits = sum(one.prediction == example.label for one, example in zip(told, asked, strict=True))
    assert hits / len(asked) == pytest.approx(result["report"].metrics["accuracy"]["value"])


def test_overrides_say_which_model_predicts(made: tuple[Path, RunResult], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = made[0]
    override = "steps.tune={kind: tune, data: data, technique: plain}"
    Recipe.load(recipe, [override]).run(progress=False)
    words = ["predict", f"{recipe}:tune", str(recipe.parent / "tickets.csv")]
    assert run_command([*words, override, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert run_command([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"] != plain["predictions"]
    assert run_command([*words, "steps.tune.epochs=2"]) == 2
    assert "luthier run" in capsys.readouterr().err
