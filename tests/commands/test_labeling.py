"""Labeling projects on the command line: made from rows, measured, exported, and taken in from other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.annotation.project import get_project, list_projects
from luthier.annotation.queue import AnnotationQueue
from luthier.annotation.results import find_items, label_items, read_answered_items
from luthier.cli.app import run_command
from luthier.commands.labeling.create import find_near_twins
from luthier.commands.labeling.foreign import import_project, parse_label_config
from luthier.commands.labeling.measure import measure_project, measure_slowly
from luthier.core.db import Ledger
from luthier.core.errors import DataError
from luthier.recipe.yaml import read_yaml

WORDS = {"billing": "invoice money charge", "login": "password account reset"}
CONFIG = """<View>
  <Text name="text" value="$text"/>
  <Choices name="topic" toName="text" required="true"><Choice value="billing" hotkey="b"/>
    <Choice value="login"/></Choices>
  <Choices name="tags" toName="text" choice="multiple"><Choice value="urgent"/><Choice value="angry"/></Choices>
  <Taxonomy name="where" toName="text"><Choice value="Money"><Choice value="Refund"/></Choice>
    <Choice value="Login"/></Taxonomy>
  <Labels name="ner" toName="text"><Label value="WHO"/><Label value="WHAT"/></Labels>
  <Relations><Relation value="has"/></Relations>
  <Rating name="stars" toName="text" maxRating="5"/>
  <TextArea name="note" toName="text"/>
  <Brush name="mask" toName="text"/>
</View>"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("LUTHIER_STORE", "LUTHIER_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> None:
    assert run_command([*words]) == 0


def open_ledger(folder: Path) -> Ledger:
    return Ledger(folder / ".luthier" / "ledger.db")


def test_a_project_from_a_table_is_measured_and_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = list(WORDS)
    known = [names[at % 2] if at < 4 else "" for at in range(100)]
    lines = [f"r{at},{WORDS[names[at % 2]]} {at},{known[at]},billing" for at in range(100)]
    (folder / "rows.csv").write_text("id,text,known,guess\n" + "\n".join(lines) + "\n")
    labels = ["--label", "billing", "--label", "login"]
    run(
        "label",
        "create",
        "Topics",
        "--from",
        "rows.csv",
        *labels,
        "--gold",
        "known",
        "--proposal",
        "guess",
        "--overlap",
        "2",
    )
    with open_ledger(folder) as ledger:
        project = list_projects(ledger)[0]
        assert AnnotationQueue(ledger, project.id).progress() == (96, 0, 0, 4, 0)
        ids = {one.item.key: one.item.id for one in find_items(ledger, project.id, limit=200)}
        for at in range(4, 100):
            label_items(ledger, project.id, [ids[f"r{at}"]], {"answer": names[at % 2]}, by="ann")
            label_items(ledger, project.id, [ids[f"r{at}"]], {"answer": names[at % 2 if at % 10 else 0]}, by="ben")
        measures, slow = measure_project(ledger, project.id), measure_slowly(ledger, project.id)
        assert measures.agreement is not None
        assert measures.agreement.rows == 96
        assert [one.annotator for one in measures.people] == ["ann", "ben"]
        assert slow.agreement[0].value is not None
        assert slow.error is not None
        assert slow.labels == 100
        assert len(find_near_twins(ledger, project.id, [ids["r5"]])) >= 1
    capsys.readouterr()
    run("label", "list")
    assert "Topics" in capsys.readouterr().out
    run("label", "measure", project.id)
    told = capsys.readouterr().out
    assert "alpha" in told
    assert "100 more should take off" in told
    run("label", "export", project.id, "out.jsonl")
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 100
    assert [one["annotator"] for one in rows[4]["annotations"]] == ["ann", "ben"]
    run("new", "next", "--from", f"annotations:{project.id}")
    assert read_yaml(folder / "next" / "recipe.yaml").data["steps"]["data"]["source"]["project"] == project.id


def take_in(folder: Path, **files: Any) -> tuple[dict[str, str], dict[tuple[str, str], Any], list[str]]:
    """Questions by name and answers by item and person of a project of another tool, and what was told."""
    (folder / "theirs").mkdir()
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        if ending == "jsonl":
            text = "\n".join(json.dumps(row) for row in content)
        (folder / "theirs" / f"{stem}.{ending}").write_text(text)
    with open_ledger(folder) as ledger:
        made, read, _ = import_project(ledger, "Theirs", [folder / "theirs"], by="owner")
        settings = get_project(ledger, made.id).settings
        answers: dict[tuple[str, str], Any] = {
            (one.item.key, said.annotator): said.values
            for one in read_answered_items(ledger, made.id)
            for said in one.answers
        }
        assert AnnotationQueue(ledger, made.id).progress().items + AnnotationQueue(ledger, made.id).progress().gold
    return {name: question.kind for name, question in settings.questions.items()}, answers, read.notes


def test_label_studio(folder: Path) -> None:
    text = "\U0001f600 Ann lost money"
    result = [
        {"from_name": "topic", "type": "choices", "value": {"choices": ["billing"]}},
        {"from_name": "tags", "type": "choices", "value": {"choices": ["urgent", "angry"]}},
        {"from_name": "where", "type": "taxonomy", "value": {"taxonomy": [["Money", "Refund"]]}},
        {
            "id": "a",
            "from_name": "ner",
            "type": "labels",
            "value": {"start": 3, "end": 6, "text": "Ann", "labels": ["WHO"]},
        },
        {
            "id": "b",
            "from_name": "ner",
            "type": "labels",
            "value": {"start": 12, "end": 17, "text": "money", "labels": ["WHAT"]},
        },
        {"type": "relation", "from_id": "a", "to_id": "b", "labels": ["has"]},
        {"from_name": "stars", "type": "rating", "value": {"rating": 4}},
        {"from_name": "note", "type": "textarea", "value": {"text": ["angry"]}},
    ]
    tasks = [
        {
            "id": 7,
            "data": {"text": text},
            "annotations": [
                {
                    "completed_by": {"email": "ann@example.org"},
                    "result": result,
                    "lead_time": 3.5,
                    "created_at": "2026-01-02T03:04:05Z",
                },
                {"completed_by": 2, "result": [result[0]]},
                {"completed_by": 3, "was_cancelled": True, "result": []},
            ],
            "predictions": [{"result": [{"from_name": "topic", "value": {"choices": ["login"]}}]}],
        },
        {"id": 8, "data": {"text": "nothing yet"}, "annotations": []},
    ]
    questions, answers, notes = take_in(folder, config_xml=CONFIG, export_json=tasks)
    assert questions == {
        "topic": "choice", "tags": "choices", "where": "tree", "ner": "spans", "stars": "rating", "note": "text"
    }  # fmt: skip
    assert set(answers) == {("7", "ann@example.org"), ("7", "2")}
    given = answers["7", "ann@example.org"]
    assert given["where"] == "Money / Refund"
    assert [one["text"] for one in given["ner"]["spans"]] == ["Ann", "money"]
    assert given["ner"]["relations"] == [{"from": 0, "to": 1, "label": "has"}]
    assert notes == ["Brush 'mask' is not taken over"]


def asked(name: str, kind: str, *options: Any) -> dict[str, Any]:
    """A question as Argilla's settings have it."""
    about = {"type": kind, "options": [{"value": one, "text": str(one)} for one in options]}
    return {"name": name, "required": name == "topic", "settings": about}


def test_argilla(folder: Path) -> None:
    settings = {
        "guidelines": "Read first.",
        "fields": [{"name": "text", "settings": {"type": "text"}}],
        "questions": [
            asked("topic", "label_selection", "billing", "login"),
            asked("stars", "rating", 1, 2, 3, 4, 5),
            asked("who", "span", "WHO"),
            asked("order", "ranking", "a"),
        ],
        "distribution": {"strategy": "overlap", "min_submitted": 2},
    }
    records = [
        {
            "id": "r1",
            "fields": {"text": "Ann lost money"},
            "suggestions": {"topic": {"value": "login"}},
            "responses": {
                "topic": [
                    {"value": "billing", "user_id": "u1", "status": "submitted"},
                    {"value": "login", "user_id": "u2", "status": "draft"},
                ],
                "who": [{"value": [{"start": 0, "end": 3, "label": "WHO"}], "user_id": "u1", "status": "submitted"}],
            },
        }
    ]
    questions, answers, notes = take_in(folder, settings_json=settings, records_json=records)
    assert questions == {"topic": "choice", "stars": "rating", "who": "spans"}
    assert answers["r1", "u1"]["topic"] == "billing"
    assert answers["r1", "u1"]["who"]["spans"][0]["text"] == "Ann"
    assert set(answers) == {("r1", "u1")}
    assert notes == ["the question 'order' (ranking) is not taken over"]


@pytest.mark.parametrize(
    ("project", "labels", "rows", "kind", "value"),
    [
        (
            {"projectType": "DocumentClassification", "guideline": "Read."},
            ["billing", "login"],
            {"label": ["login"]},
            "choice",
            "login",
        ),
        (
            {"project_type": "SequenceLabeling"},
            ["WHO"],
            {"label": [[0, 3, "WHO"]]},
            "spans",
            {"spans": [{"start": 0, "end": 3, "text": "Ann", "label": "WHO"}], "relations": []},
        ),
        ({"projectType": "Seq2seq"}, [], {"label": ["Anna"]}, "text", "Anna"),
    ],
)
def test_doccano(folder: Path, project: Any, labels: list[str], rows: Any, kind: str, value: Any) -> None:
    configured = [{"text": one, "suffixKey": one[0].lower(), "backgroundColor": "#fff"} for one in labels]
    row = {"id": 1, "text": "Ann lost money"}
    files = {"admin_jsonl": [{**row, **rows}], "ben_jsonl": [{**row, "label": []}]}
    questions, answers, _ = take_in(folder, project_json=project, labels_json=configured, **files)
    assert questions == {"answer": kind}
    assert answers == {("1", "admin"): {"answer": value}}


@pytest.mark.parametrize(
    "config",
    [
        '<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;">]><View>&lol2;</View>',
        '<!doctype x SYSTEM "file:///etc/passwd"><View/>',
        "<View>",
        "<View>" + " " * (5 << 20) + "</View>",
    ],
)
def test_a_hostile_configuration_is_refused(config: str) -> None:
    with pytest.raises(DataError):
        parse_label_config(config)


def test_files_of_no_tool_are_refused(folder: Path) -> None:
    (folder / "x.json").write_text("[]")
    with open_ledger(folder) as ledger, pytest.raises(DataError, match="no labeling tool"):
        import_project(ledger, "Theirs", [folder / "x.json"], by="owner")


def test_the_most_useful_items_come_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [
        *(WORDS["billing"] for _ in range(20)),
        *(WORDS["login"] for _ in range(20)),
        "money charge password account",
    ]
    (folder / "rows.csv").write_text(
        "id,text\n" + "\n".join(f"r{at},{text} {at}" for at, text in enumerate(texts)) + "\n"
    )
    (folder / "guide.md").write_text("Money is billing.")
    labels = ("--label", "billing", "--label", "login")
    run("label", "create", "Topics", "--from", "rows.csv", *labels, "--text", "text", "--guidelines", "guide.md")
    with open_ledger(folder) as ledger:
        project = list_projects(ledger)[0].id
        assert get_project(ledger, project).settings.guidelines == "Money is billing."
        ids = {one.item.key: one.item.id for one in find_items(ledger, project)}
        for at in (*range(8), *range(20, 28)):
            label_items(ledger, project, [ids[f"r{at}"]], {"answer": "billing" if at < 20 else "login"}, by="ann")
        run("label", "order", project, "--by", "uncertainty")
        assert "25 items come first" in capsys.readouterr().out
        assert get_project(ledger, project).settings.order == "priority"
        leased = AnnotationQueue(ledger, project).next_item("ben")
        assert leased is not None
        assert leased.shown.text == "money charge password account 40"
