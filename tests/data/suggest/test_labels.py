"""`luthier new` on what tools for annotators write: known by content, one question chosen, a recipe that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.commands.recipe_text import render_recipe
from luthier.core.errors import DataError
from luthier.data.columns.recognize import recognize_path_source_kind
from luthier.data.suggest.propose import propose_recipe

Make = Callable[..., Any]
CLASSES = ("refund", "delivery")


def _text(n: int) -> str:
    return f"message number {n} about {CLASSES[n % 2]} of parcel {n * 37}"


def _result(name: str, kind: str, value: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": "text", "type": kind, "value": {kind: value}}


def _label_studio(n: int) -> dict[str, Any]:
    said = [_result("topic", "choices", [CLASSES[n % 2]])]
    more = [_result("remark", "text", [f"remark {n}"])] if n % 3 == 0 else []
    annotations = [{"completed_by": 1, "result": said + more}, {"completed_by": 2, "result": said}]
    return {"id": n, "data": {"text": _text(n), "category": f"c{n % 3}"}, "annotations": annotations if n else []}


def _argilla(n: int) -> dict[str, Any]:
    return {
        "id": f"r{n}",
        "fields": {"text": _text(n)},
        "metadata": {},
        "responses": {"topic": [{"value": CLASSES[n % 2], "user_id": "u1"}]} if n else {},
    }


def _argilla_flat(n: int) -> dict[str, Any]:
    said = [CLASSES[n % 2]] if n else None
    users = ["u1"] if n else None
    return {"id": f"r{n}", "text": _text(n), "topic.responses": said, "topic.responses.users": users}


def _doccano(n: int) -> dict[str, Any]:
    return {"id": n, "text": _text(n), "label": [CLASSES[n % 2]] if n else [], "Comments": []}


EXPORTS = {"label_studio": _label_studio, "argilla": _argilla, "argilla_flat": _argilla_flat, "doccano": _doccano}


def _write(path: Path, rows: list[dict[str, Any]], *, by_line: bool) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in rows) if by_line else json.dumps(rows, indent=1)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("by_line", [True, False], ids=["jsonl", "json"])
@pytest.mark.parametrize("tool", EXPORTS)
def test_the_proposed_recipe_runs(make: Make, tmp_path: Path, tool: str, by_line: bool) -> None:
    path = tmp_path / ("export.jsonl" if by_line else "export.json")
    _write(path, [EXPORTS[tool](n) for n in range(40)], by_line=by_line)
    proposal = propose_recipe(path, shown=path.name)
    assert proposal.source["kind"] == "labels"
    assert proposal.task == "label"
    assert set(proposal.profile.answers) == set(CLASSES)
    assert "on_error" not in proposal.source, "a row that nobody judged is not broken"
    assert any("1 row is left out: no judgment" in note for note in proposal.profile.notes)
    text = render_recipe(proposal, "judged")
    step = yaml.safe_load(text)["steps"]["data"]
    assert "annotators" in text
    made = make(**{name: value for name, value in step.items() if name != "kind"})
    assert sum(made.summary.rows.values()) + sum(made.summary.dropped.values()) == 40
    assert set(made.summary.labels) == set(CLASSES)
    assert "judgments" in json.loads(made.split("test").row(0, named=True)["meta"])


def test_of_several_questions_the_one_answered_most_is_proposed(tmp_path: Path) -> None:
    _write(tmp_path / "ls.json", [_label_studio(n) for n in range(40)], by_line=False)
    proposal = propose_recipe(tmp_path / "ls.json")
    assert proposal.source["question"] == "topic"
    assert "remark, topic" in proposal.reasons["source.question"]
    assert proposal.source["answer"] == "label", "the column `category` was there before anybody judged"


def test_a_folder_with_a_file_a_person_is_read_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "people"
    folder.mkdir()
    for name in ("ann", "bob"):
        _write(folder / f"{name}.jsonl", [_doccano(n) for n in range(1, 30)], by_line=True)
    assert recognize_path_source_kind("people", tmp_path) == "labels"
    assert "2 annotators" in propose_recipe(folder).reasons["source.kind"]
    (folder / "more.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": "c", "label": "d"}\n')
    assert recognize_path_source_kind("people", tmp_path) == "folder"


@pytest.mark.parametrize(
    "row",
    [
        {"text": "one word as class", "label": "a"},
        {"text": "several classes and no number", "label": ["a", "b"]},
        {"id": 1, "text": "spans of names", "label": [[0, 5, "ORG"]]},
        {"id": 1, "fields": "x", "responses": []},
        {"data": "no object", "annotations": []},
    ],
)
def test_rows_that_others_write_too_are_left_to_the_plain_reader(tmp_path: Path, row: dict[str, Any]) -> None:
    _write(tmp_path / "rows.jsonl", [row] * 3, by_line=True)
    assert recognize_path_source_kind("rows.jsonl", tmp_path) == "jsonl"


def test_an_export_that_nobody_has_judged_says_so(tmp_path: Path) -> None:
    _write(
        tmp_path / "ls.json",
        [{"id": n, "data": {"text": _text(n)}, "annotations": []} for n in range(3)],
        by_line=False,
    )
    with pytest.raises(DataError, match="every row is left out: no judgment"):
        propose_recipe(tmp_path / "ls.json")


def test_marked_spans_make_a_recipe_that_extracts(make: Make, tmp_path: Path) -> None:
    rows = []
    for n in range(40):
        text = _text(n)
        start = text.index(str(n * 37), 15)
        value = {"start": start, "end": len(text), "text": text[start:], "labels": ["PARCEL"]}
        marked = [{"from_name": "ner", "to_name": "text", "type": "labels", "value": value}] if n % 4 else []
        rows.append({"id": n, "data": {"text": text}, "annotations": [{"completed_by": 1, "result": marked}]})
    _write(tmp_path / "spans.json", rows, by_line=False)
    proposal = propose_recipe(tmp_path / "spans.json")
    assert proposal.task == "text"
    settings = {**proposal.source, "path": str(tmp_path / "spans.json")}
    made = make(source=settings, split={"test": 0.25}, task="text")
    answers = {json.loads(row)[-1]["content"] for row in made.all()["messages"]}
    assert len(answers) == 31
    assert {'{"PARCEL": ["37"]}', "{}"} < answers
