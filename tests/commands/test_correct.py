"""A person corrects single rows in a terminal: the decision stands beside the recipe, and the next run has it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from luthier.cli.app import run_command
from luthier.data.history.corrections import read_row_decisions
from luthier.recipe.schema import Recipe

RECIPE = """\
luthier: 1
name: rows
steps:
  data:  # of the desk
    kind: prepare
    source: {kind: csv, path: rows.csv, prompt: text, answer: label}
    split: {test: 0.2}
    task: label
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a folder of its own, which is not the current one; it was run."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    rows = "".join(f"text number {at} of many,{'yes' if at % 2 else 'no'}\n" for at in range(40))
    (tmp_path / "rows/rows.csv").write_text("text,label\n" + rows)
    file = tmp_path / "rows/recipe.yaml"
    file.write_text(RECIPE)
    assert run_command(["run", str(file)]) == 0
    return file


def _rows(file: Path) -> pl.DataFrame:
    return pl.read_parquet(Recipe.load(file).plan().artifact("data").path("examples/train.parquet"))


def test_a_decision_is_kept_beside_the_recipe(recipe: Path) -> None:
    first, second = _rows(recipe)["id"].to_list()[:2]
    words = ["correct", first[:8], "--recipe", str(recipe), "--answer", "perhaps", "--reason", "read it", "--new-class"]
    assert run_command(words) == 0
    assert run_command(["correct", second, "--recipe", str(recipe), "--drop", "--json"]) == 0
    text = recipe.read_text()
    assert "  data:  # of the desk\n" in text
    assert "ops: [{kind: corrections, path: corrections.jsonl}]" in text
    assert run_command(["run", str(recipe)]) == 0
    rows = _rows(recipe)
    assert rows.filter(pl.col("id") == first)["label"].to_list() == ["perhaps"]
    assert second not in rows["id"].to_list()
    assert run_command(["correct", second, "--recipe", str(recipe), "--restore"]) == 0
    assert set(read_row_decisions(recipe.parent / "corrections.jsonl")) == {first}


def test_one_decision_at_a_time_about_a_row_that_there_is(recipe: Path) -> None:
    row = _rows(recipe)["id"][0]
    for words in ([row], [row, "--drop", "--restore"], ["0123456789abcdef", "--drop"]):
        assert run_command(["correct", *words, "--recipe", str(recipe)]) == 2
    assert recipe.read_text() == RECIPE
    assert not (recipe.parent / "corrections.jsonl").exists()


def test_an_answer_is_a_class_of_the_data(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _rows(recipe)["id"].to_list()[0]
    assert run_command(["correct", first, "--recipe", str(recipe), "--answer", "yess"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'yess' is no class of 'data'" in said
    assert "its classes: yes, no. To add a new class, give --new-class" in said
    assert not (recipe.parent / "corrections.jsonl").exists()
    assert run_command(["correct", first, "--recipe", str(recipe), "--answer", "YES"]) == 0
    assert read_row_decisions(recipe.parent / "corrections.jsonl")[first].edits["messages[1].content"].text == "yes"
