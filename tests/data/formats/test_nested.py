"""Rows that lie deep in a JSON file, and texts that lie in objects inside of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.app import run_command
from luthier.core.errors import DataError
from luthier.data.columns.layouts import Layout
from luthier.data.columns.mapping import decide_mapping
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Source
from luthier.recipe.schema import Recipe
from tests.tiny_models import tickets

ROWS = [
    {"id": n, "question": {"text": row["message"]}, "reply": {"label": row["category"], "by": {"agent": "bob"}}}
    for n, row in enumerate(tickets(60))
]
DEEP = {"meta": {"count": 60}, "data": {"took": 3, "tickets": ROWS}, "errors": None}


def _read(settings: dict[str, Any], base: Path, said: list[str]) -> list[dict[str, Any]]:
    found = list(Source.parse(settings).read(base, said.append))
    return [one.values for one in found if isinstance(one, SourceRecord)]


def test_an_array_that_lies_deeper_is_read_by_its_dotted_name(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(DEEP, indent=1))
    said: list[str] = []
    found = list(Source.parse({"kind": "json", "path": "t.json", "rows": "data.tickets"}).read(tmp_path, said.append))
    assert [one.values for one in found if isinstance(one, SourceRecord)] == ROWS
    assert len({one.line for one in found}) == 60
    assert said == ["t.json: rows are the array 'data.tickets'; left out: meta, data.took, errors"]
    with pytest.raises(DataError, match=r"holds no array 'data\.tickts'") as caught:
        _read({"kind": "json", "path": "t.json", "rows": "data.tickts"}, tmp_path, [])
    assert "data.tickets" in caught.value.hint


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_objects_inside_become_columns_with_dotted_names(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [*ROWS[:2], {"a": {"b": 1}, "a.b": 2}, {"a": {"c": [{"d": 1}], "e": {}}}]
    (tmp_path / "t").write_text("\n".join(map(json.dumps, rows)))
    found = list(Source.parse({"kind": kind, "path": "t", "flatten": True}).read(tmp_path, lambda text: None))
    assert isinstance(found[0], SourceRecord)
    assert set(found[0].values) == {"id", "question.text", "reply.label", "reply.by.agent"}
    assert isinstance(found[2], BrokenRow)
    assert found[2].field == "a.b"
    assert isinstance(found[3], SourceRecord)
    assert found[3].values == {"a.c": [{"d": 1}], "a.e": {}}


@pytest.mark.matrix("t.json-content1*", "t.jsonl*")
@pytest.mark.parametrize(
    ("name", "content", "asks"),
    [
        ("t.json", json.dumps(DEEP), {"rows": "data.tickets", "flatten": True}),
        ("t.json", json.dumps({"x": {"conversations": ROWS}}), {"rows": "x.conversations", "flatten": True}),
        ("t.json", json.dumps(ROWS), {"rows": None, "flatten": True}),
        ("t.jsonl", "\n".join(map(json.dumps, ROWS)), {"flatten": True}),
    ],
)
def test_a_recipe_for_nested_rows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, asks: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content)
    assert run_command(["new", "mine", "--from", name]) == 0
    source = Recipe.load(tmp_path / "mine").steps["data"].model_dump()["source"]
    assert {key: source[key] for key in asks} == asks
    assert (source["prompt"], source["answer"]) == ("question.text", "reply.label")


def test_an_object_with_a_text_is_a_row_and_no_way_to_others(tmp_path: Path) -> None:
    row = {"text": "a whole sentence", "more": {"tags": [{"a": 1}, {"a": 2}]}}
    (tmp_path / "t.json").write_text(json.dumps(row))
    assert Source.parse({"kind": "json", "path": "t.json"}).suggest_settings(tmp_path).settings == {}
    assert _read({"kind": "json", "path": "t.json"}, tmp_path, []) == [row]


def test_the_turns_of_a_conversation_are_no_rows(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "good day"}]
    (tmp_path / "t.json").write_text(json.dumps({"id": 1, "chat": {"messages": turns}}))
    assert "rows" not in Source.parse({"kind": "json", "path": "t.json"}).suggest_settings(tmp_path).settings


def test_new_prints_once_what_the_reader_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.json").write_text(json.dumps(DEEP))
    assert run_command(["new", "mine", "--from", "t.json"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1:3] == [
        "  · t.json: 60 rows, 4 columns",
        "  · t.json: rows are the array 'data.tickets'; left out: meta, data.took, errors",
    ]
    assert sum("rows are the array" in line for line in printed) == 1
    assert (tmp_path / "mine" / "recipe.yaml").read_text().count("rows are the array") == 1


def test_a_list_of_tags_hides_no_texts_inside(tmp_path: Path) -> None:
    rows = [{**row, "tags": [], "labels": [{"name": "new"}, "vip"]} for row in ROWS]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Source.parse({"kind": "jsonl", "path": "t.jsonl"})
    assert source.suggest_settings(tmp_path).settings == {"flatten": True}
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({**row, "turns": [{"role": "user"}]}) for row in rows))
    assert source.suggest_settings(tmp_path).settings == {}


def test_a_column_inside_of_an_object_is_told_how_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    settings = {"kind": "jsonl", "path": "t.jsonl", "prompt": "question.text", "answer": "reply.label"}
    rows = _read({**settings}, tmp_path, [])
    with pytest.raises(DataError, match=r"no column 'question\.text'") as caught:
        decide_mapping(
            Layout(prompt="question.text", answer="reply.label"), rows, "t", system=None, group=None, key=None
        )
    assert "`flatten: true`" in (caught.value.hint or "")
