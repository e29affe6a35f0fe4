"""A row is found in whichever recipe here holds it; where that is not one, a person is told what to type."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars
import pytest

from luthier.cli.app import run_command
from luthier.tune.training.reference_logprobs import HeldOutEvaluator
from tests.targets import artifact_of
from tiny_models import RECIPE, own_cache, small_recipe


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two recipes that are made, and one that is not; one row's name stands in both."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        Path(name).mkdir()
        rows = [{"key": f"{name}-{n}" if n else "both", "question": f"{name} {n}?", "answer": f"{n}"} for n in range(9)]
        Path(name, "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = "{kind: jsonl, path: rows.jsonl, id: key, prompt: question, answer: answer}"
        Path(name, "recipe.yaml").write_text(
            f"luthier: 1\nname: {name}\nsteps:\n  data: {{kind: prepare, source: {source}, ops: [near_dedup]}}\n"
        )
    assert [run_command(["run", name]) for name in ("a", "b")] == [0, 0]
    capsys.readouterr()


@pytest.mark.usefixtures("recipes")
def test_a_row_is_found_in_the_one_recipe_that_holds_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["lineage", "b-3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["messages"][0]["content"] == "b 3?"


@pytest.mark.usefixtures("recipes")
def test_where_several_hold_it_the_words_to_type_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["lineage", "both"]) == 2
    said = capsys.readouterr().err
    assert "2 recipes here hold the row 'both': a/recipe.yaml, b/recipe.yaml" in said
    assert "luthier lineage both --recipe a/recipe.yaml" in said
    assert run_command(["lineage", "both", "--recipe", "a/recipe.yaml"]) == 0


@pytest.mark.usefixtures("recipes")
def test_where_none_holds_it_each_recipe_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["lineage", "nobody"]) == 2
    said = capsys.readouterr().err
    assert "a/recipe.yaml: no example has the id 'nobody'" in said
    assert "c/recipe.yaml: the step 'data' is not made yet" in said
    assert "--recipe a/recipe.yaml" in said


@pytest.mark.usefixtures("recipes")
def test_what_an_operator_has_nothing_to_say_of_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["lineage", "a-1"]) == 0
    assert "None" not in capsys.readouterr().out


@pytest.mark.usefixtures("recipes")
def test_a_dropped_row_is_found_by_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a", "rows.jsonl").write_text(
        '{"key": "x-1", "question": "what?", "answer": "that"}\n'
        '{"key": "x-2", "question": "who?", "answer": ""}\n'
        '{"key": "x-3", "question": "why?", "answer": "so"}\n'
    )
    assert run_command(["run", "a"]) == 0
    capsys.readouterr()
    assert run_command(["lineage", "rows.jsonl:2", "--recipe", "a"]) == 0
    assert "empty answer" in capsys.readouterr().out
    assert run_command(["lineage", "x-2", "--recipe", "a"]) == 2
    assert "FILE:LINE" in capsys.readouterr().err
    assert run_command(["lineage", "rows.jsonl:3", "--recipe", "a"]) == 0
    assert "'why?'" in capsys.readouterr().out


@pytest.mark.usefixtures("recipes")
def test_calls_of_tools_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"order": 5}'}}
    turns = [
        {"role": "user", "content": "where?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sent", "tool_call_id": "c"},
        {"role": "assistant", "content": "On its way."},
    ]
    Path("a", "rows.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    source = "{kind: jsonl, path: rows.jsonl, messages: messages}"
    Path("a", "recipe.yaml").write_text(
        f"luthier: 1\nname: a\nsteps:\n  data: {{kind: prepare, source: {source}, split: {{test: 0}}}}\n"
    )
    assert run_command(["run", "a"]) == 0
    capsys.readouterr()
    assert run_command(["lineage", "rows.jsonl:1", "--recipe", "a"]) == 0
    told = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["assistant", 'calls find({"order": 5})'] in told
    assert ["assistant", "''"] not in told


@pytest.mark.usefixtures("recipes")
def test_what_stands_for_personal_data_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a", "rows.jsonl").write_text('{"key": "x-1", "question": "is jo@example.com yours?", "answer": "yes"}\n')
    recipe = Path("a", "recipe.yaml")
    recipe.write_text(recipe.read_text().replace("[near_dedup]", "[pii], split: {test: 0}"))
    assert run_command(["run", "a"]) == 0
    capsys.readouterr()
    assert run_command(["lineage", "x-1", "--recipe", "a"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^\[EMAIL:[a-p]{10}\] stands for what was found, which is not kept", told, re.MULTILINE)
    assert "jo@example.com" not in told


def test_a_row_that_came_after_the_saved_weights_or_never_was_not_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter([1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(HeldOutEvaluator, "take", lambda self, model, tokens: {"held_out_loss": next(values)})
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    validation = "    validation: {rows: 8, every: 1, patience: 2}\n"
    text = RECIPE.partition("  report:")[0].replace("    dtype: float32\n", f"    dtype: float32\n{validation}")
    small_recipe(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    assert run_command(["run", "recipe.yaml"]) == 0
    learnt = polars.read_parquet(artifact_of(":tune").artifact.path("training_examples.parquet"))
    wanted = {
        "learnt by tune": learnt.filter(polars.col("taught") == 1),
        "it was seen after the weights that were saved": learnt.filter(polars.col("seen") > polars.col("taught")),
        "held out": learnt.filter(polars.col("nothing") == "held out"),
        "its turn never came": learnt.filter((polars.col("seen") == 0) & polars.col("nothing").is_null()),
    }
    capsys.readouterr()
    for said, rows in wanted.items():
        assert run_command(["lineage", rows["id"][0]]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "learnt by tune" in line]
        assert said in line
        assert line.startswith("not ") is (said != "learnt by tune")
