"""What each form is: read back by the program that it is for, or checked against that program's written rules."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from luthier.artifacts.dataset import list_splits, read_examples
from luthier.chat.openai_examples import explain_chat_refusal, explain_preference_refusal
from luthier.core.errors import DataError
from luthier.core.spreadsheet import escape_formula
from luthier.data.columns.layouts import OWN_TABLE
from luthier.data.export import export_dataset
from luthier.data.exporters.csv import COLUMNS
from luthier.data.exporters.providers import OpenaiExporter, format_export_row
from luthier.data.suggest.propose import propose_recipe

Make = Callable[..., Any]
Write = Callable[..., str]
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": 5}'}}
CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": f"Where is order {n}?"},
            {"role": "assistant", "content": "Let me see.", "weight": 0},
            {"role": "user", "content": "Well?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "sent", "tool_call_id": "c1"},
            {"role": "assistant", "content": f"Sent on day {n}.", "reasoning_content": "It says sent."},
        ],
        "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}],
        "customer": f"C{n}",
        "stars": n / 2,
    }
    for n in range(16)
]
JUDGED = [
    {"annotator": "ann@example.org", "label": "b", "time": "2024-05-01T10:00:00Z", "seconds": 3.5},
    {"annotator": "bob", "label": None},
]


@pytest.fixture
def chats(make: Make, write: Write) -> Any:
    source = {"kind": "jsonl", "path": write("chats.jsonl", CHATS), "group": "customer"}
    return make(source=source, split={"test": 0.25}).artifact


@pytest.fixture
def judged(make: Make, write: Write) -> Any:
    proposal = {"label": "a", "confidence": 0.75, "scores": {"a": 0.75, "c": 0.25}, "model": "tune"}
    rows = [
        {"text": f"text {n}", "label": "ab"[n % 2], "judgments": JUDGED, "proposal": proposal, "page": n}
        for n in range(12)
    ]
    return make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}).artifact


def _examples(artifact: Any) -> dict[str, Any]:
    return {example.id: example for split in list_splits(artifact) for example in read_examples(artifact, split)}


@pytest.mark.parametrize("form", ["jsonl", "parquet", "datasets"])
def test_a_round_trip_gives_the_same_examples(form: str, chats: Any, make: Make, tmp_path: Path) -> None:
    """With id, origin, tools, calls, reasoning, turns that are not learnt, and every column of meta."""
    out = tmp_path / "out"
    export_dataset(chats, out, form)
    if form == "datasets":
        import datasets

        back = datasets.load_from_disk(out)
        assert {name: len(rows) for name, rows in back.items()} == {"train": 11, "test": 5}
        for name, rows in back.items():
            rows.to_parquet(out / f"{name}.parquet")
    suffix = "jsonl" if form == "jsonl" else "parquet"
    again = make(
        source={"kind": "folder", "path": "out", "glob": f"*.{suffix}", "group": "customer"}, split={"test": 0}
    )
    assert "they keep id and origin" in again.notes
    before, after = _examples(chats), _examples(again.artifact)
    assert after == before
    assert {row["group"] for row in again.all().iter_rows(named=True)} == {f"C{n}" for n in range(16)}
    turns = next(iter(before.values())).messages
    assert [turn.learn for turn in turns] == [True, True, False, True, True, True, True]
    assert turns[-1].thinking == "It says sent."


@pytest.mark.parametrize("form", ["jsonl", "parquet", "datasets", "csv"])
def test_new_over_an_export_keeps_ids_origins_and_meta(form: str, make: Make, write: Write, tmp_path: Path) -> None:
    """A recipe that named their columns read them as anybody's: with new ids, and the old ones in `meta`."""
    rows = [{**chat, "label": "=1+1 größer"} for chat in CHATS]
    before = make(source={"kind": "jsonl", "path": write("chats.jsonl", rows)}, split={"test": 0}).artifact
    export_dataset(before, tmp_path / "out", form)
    asked = propose_recipe(tmp_path / "out").source
    assert not {"messages", "prompt", "answer", "id"} & set(asked)
    again = make(source={**asked, "path": "out"}, split={"test": 0})
    assert _examples(again.artifact) == _examples(before)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_new_over_an_export_of_classes_takes_them_for_classes(
    form: str, make: Make, write: Write, tmp_path: Path
) -> None:
    """Though they are more than would be guessed."""
    rows = [{"text": f"text {n}", "label": f"class {n % 15}"} for n in range(30)]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows)}
    before = make(source={**source, "prompt": "text", "answer": "label"}, split={"test": 0}, task="label").artifact
    export_dataset(before, tmp_path / "out", form)
    asked = propose_recipe(tmp_path / "out")
    assert asked.task == "label"
    again = make(source={**asked.source, "path": "out", "system": None}, split={"test": 0}, task=asked.task)
    assert _examples(again.artifact) == _examples(before)


def test_the_index_beside_openais_rows_is_not_read_as_rows(chats: Any, make: Make, tmp_path: Path) -> None:
    export_dataset(chats, tmp_path / "out", "openai")
    asked = propose_recipe(tmp_path / "out").source
    assert "on_error" not in asked
    again = make(source={**asked, "path": "out", "group": None}, split={"test": 0})
    assert again.summary.rows_in == 16


def test_a_correction_in_a_sheets_columns_for_reading_is_not_lost(make: Make, write: Write, tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(8)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}, task="label").artifact
    export_dataset(made, tmp_path / "out", "csv")
    path = tmp_path / "out" / "train.csv"
    assert len(_examples(make(source={"kind": "csv", "path": "out/train.csv"}, split={"test": 0}).artifact)) == 8
    path.write_text(path.read_text(encoding="utf-8-sig").replace('"label","a"', '"label","c"', 1), encoding="utf-8")
    with pytest.raises(DataError, match="`label` says 'c' and `messages` 'a'"):
        make(source={"kind": "csv", "path": "out/train.csv"}, split={"test": 0})


def test_rows_given_out_and_spoilt_are_told(chats: Any, make: Make, write: Write, tmp_path: Path) -> None:
    export_dataset(chats, tmp_path / "out", "jsonl")
    lines = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    for change, problem in (
        ({"id": "../../etc"}, "expected an id of 16"),
        ({"origin": {"source": "jsonl", "file": "f", "line": "5"}}, "expected an origin"),
        ({"meta": "[]"}, "expected an object"),
        ({"id": json.loads(lines[1])["id"]}, "ids must differ"),
    ):
        path = write("spoilt.jsonl", [{**row, **change}, *map(json.loads, lines[1:])])
        with pytest.raises(DataError, match=problem):
            make(source={"kind": "jsonl", "path": path}, split={"test": 0})


def test_the_table_that_goes_out_is_known_again() -> None:
    assert set(COLUMNS) == OWN_TABLE


def test_parquet_is_typed(chats: Any, tmp_path: Path) -> None:
    export_dataset(chats, tmp_path, "parquet")
    table = pl.read_parquet(tmp_path / "train.parquet")
    row = table.row(0, named=True)
    assert row["messages"][0] == {
        **dict.fromkeys(("thinking", "tool_call_id", "name", "tag", "tool_calls")),
        "role": "system",
        "content": "Be short.",
        "learn": True,
    }
    assert row["messages"][4]["tool_calls"] == [{"name": "look_up", "arguments": '{"order": 5}', "id": "c1"}]
    assert json.loads(row["meta"])["customer"] == f"C{row['origin']['line'] - 1}"


def test_csv_cannot_inject_formulas(make: Make, write: Write, tmp_path: Path) -> None:
    dangerous = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "＝1", '=cmd|" /C calc"!A0', "'=safe", "plain", "a=b"]
    rows = [{"prompt": f"{n}: {text}", "completion": text} for n, text in enumerate(dangerous)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}, task="text").artifact
    said: list[str] = []
    export_dataset(made, tmp_path / "out", "csv", said.append)
    with (tmp_path / "out" / "train.csv").open(newline="", encoding="utf-8-sig") as file:
        found = list(csv.DictReader(file))
    assert [row["answer"] for row in found] == [
        text if text in ("'=safe", "plain", "a=b") else f"'{text}" for text in dangerous
    ]
    assert not [cell for row in found for cell in row.values() if cell[:1] in "=+-@\t\r" and cell]
    assert said == ["8 cells would be read as formulas: an apostrophe stands before them"]
    assert [json.loads(row["messages"])[-1]["content"] for row in found] == dangerous, "and nothing is lost"
    assert escape_formula(7) == 7


def test_excel_is_told_how_a_csv_is_encoded(make: Make, write: Write, tmp_path: Path) -> None:
    """Without the mark it showed `GrÃ¼ÃŸe`; whoever reads the table by its names finds them as they were."""
    rows = [{"prompt": f"Grüße {n}", "completion": f"schön {n}"} for n in range(4)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}, task="text").artifact
    export_dataset(made, tmp_path / "out", "csv")
    path = tmp_path / "out" / "train.csv"
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert pl.read_csv(path)["prompt"].to_list() == [row["prompt"] for row in rows]
    assert pl.read_csv(path).columns[0] == "id"
    asked = {"kind": "csv", "path": str(path), "prompt": "prompt", "answer": "answer", "id": "id"}
    assert make(source=asked, split={"test": 0}, task="text").texts()[::2] == [row["prompt"] for row in rows]


def test_openai_chat_rows_hold_what_openai_documents(chats: Any, tmp_path: Path) -> None:
    said: list[str] = []
    export_dataset(chats, tmp_path, "openai", said.append)
    assert any("hold no id" in note or "holds no id" in note for note in said)
    assert any(note.startswith("test: OpenAI takes files of 10 rows and more, and there are 5") for note in said)
    line = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    assert set(line) == {"messages", "tools"}
    assert [turn.get("weight") for turn in line["messages"]] == [None, None, 0, None, None, None, None]
    assert line["messages"][4]["tool_calls"][0]["function"] == {"name": "look_up", "arguments": '{"order":5}'}
    assert line["tools"] == CHATS[0]["tools"]
    index = [json.loads(text) for text in (tmp_path / "train.index.jsonl").read_text().splitlines()]
    assert [one["line"] for one in index] == list(range(1, 12))
    assert index[0]["meta"]["customer"] in line["messages"][1]["content"].replace("order ", "order C")


def test_openais_own_client_takes_the_rows(chats: Any, tmp_path: Path) -> None:
    from openai.types.chat import ChatCompletionMessageParam
    from pydantic import TypeAdapter

    export_dataset(chats, tmp_path, "openai")
    adapter = TypeAdapter(list[ChatCompletionMessageParam])
    for text in (tmp_path / "train.jsonl").read_text().splitlines():
        adapter.validate_python(
            [{k: v for k, v in turn.items() if k != "weight"} for turn in json.loads(text)["messages"]]
        )


def test_openai_preference_pairs_are_found_and_checked(make: Make, write: Write, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(12)]
    made = make(source={"kind": "jsonl", "path": write("p.jsonl", rows)}, split={"test": 0}, task="text").artifact
    said: list[str] = []
    export_dataset(made, tmp_path / "out", "openai", said.append)
    assert "every row has a rejected answer: written as preference pairs" in said
    line = json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])
    assert line == {
        "input": {"messages": [{"role": "user", "content": "Question 0?"}]},
        "preferred_output": [{"role": "assistant", "content": "yes 0"}],
        "non_preferred_output": [{"role": "assistant", "content": "no 0"}],
    }
    export_dataset(made, tmp_path / "chat", OpenaiExporter(form="chat"))
    assert set(json.loads((tmp_path / "chat" / "train.jsonl").read_text().splitlines()[0])) == {"messages"}
    same = {**line, "non_preferred_output": line["preferred_output"]}
    assert explain_preference_refusal(same) == "both answers are the same"
    assert explain_preference_refusal({**line, "input": {"messages": []}}) == "the input does not end with a user turn"
    assert explain_preference_refusal({**line, "non_preferred_output": [{"role": "assistant", "content": None}]})


@pytest.mark.parametrize("form", ["openai", "columns"])
def test_pairs_with_tools_come_back_as_they_went_in(form: str, make: Make, write: Write, tmp_path: Path) -> None:
    """OpenAI's own preference rows once went out as chats, without the other answer and without their tools."""
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
    rows: list[dict[str, Any]] = [
        {
            "input": {"messages": [{"role": "user", "content": f"Question {n}?"}], "tools": tools},
            "preferred_output": [{"role": "assistant", "content": f"yes {n}"}],
            "non_preferred_output": [{"role": "assistant", "content": f"no {n}"}],
        }
        for n in range(12)
    ]
    given = [
        {
            "prompt": row["input"]["messages"],
            "chosen": row["preferred_output"],
            "rejected": row["non_preferred_output"],
            "tools": tools,
        }
        for row in rows
    ]
    path = write("p.jsonl", rows if form == "openai" else given)
    made = make(source={"kind": "jsonl", "path": path}, split={"test": 0}, task="text").artifact
    export_dataset(made, tmp_path / "out", "openai")
    assert [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()] == rows


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([{"role": "user", "content": "a"}], "no assistant turn"),
        ([{"role": "assistant", "content": "a"}], "no user turn"),
        ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}], "the last turn is by user"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}], "weight of 1"),
        ([{"role": "user", "content": "a", "name": "Jo Ann"}, {"role": "assistant", "content": "b"}], "other signs"),
        ([{"role": "user", "content": ""}, {"role": "assistant", "content": "b"}], "by user is empty"),
        (
            [
                {"role": "user", "content": "a"},
                {"role": "tool", "content": "x", "tool_call_id": "c9"},
                {"role": "assistant", "content": "b"},
            ],
            "names no call",
        ),
    ],
)
def test_what_openai_would_refuse(turns: list[dict[str, Any]], problem: str) -> None:
    assert problem in str(explain_chat_refusal({"messages": turns}))


def test_a_row_that_openai_would_refuse_stops_the_export(make: Make, write: Write, tmp_path: Path) -> None:
    rows = [{"text": f"only a text {n}"} for n in range(12)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}, task="text").artifact
    with pytest.raises(
        DataError, match=r"12 of 12 rows would be refused by OpenAI; the first is [0-9a-f]{16}: no user"
    ):
        export_dataset(made, tmp_path / "out", "openai")
    assert not list((tmp_path / "out").iterdir())


def test_plain_tools_become_functions() -> None:
    line = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "tools": [{"name": "f"}],
    }
    assert format_export_row(line, pairs=False)["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert explain_chat_refusal(
        {**format_export_row(line, pairs=False), "tools": [{"type": "function", "function": {"name": "f g"}}]}
    )


def test_label_studio_tasks(judged: Any, tmp_path: Path) -> None:
    export_dataset(judged, tmp_path, "label-studio")
    tasks = json.loads((tmp_path / "train.json").read_text())
    assert len(tasks) == 12
    first = tasks[0]
    assert first["data"]["text"] == "text 0"
    assert first["data"]["meta"] == {"page": 0}
    assert first["predictions"] == [
        {
            "model_version": "tune",
            "result": [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["a"]}}],
            "score": 0.75,
        }
    ]
    assert first["annotations"][0]["completed_by"] == {"email": "ann@example.org"}
    assert (first["annotations"][0]["created_at"], first["annotations"][0]["lead_time"]) == (
        "2024-05-01T10:00:00Z",
        3.5,
    )
    assert first["annotations"][1]["was_cancelled"]
    config = ET.parse(tmp_path / "labels.xml").getroot()
    names = {element.get("name") for element in config}
    assert {first["predictions"][0]["result"][0]["from_name"], "text"} == names
    assert [choice.get("value") for choice in config.iter("Choice")] == ["a", "b", "c"]


@pytest.mark.parametrize(("form", "file"), [("label-studio", "labels.xml"), ("argilla", "settings.json")])
def test_what_a_model_names_without_scores_can_be_chosen(
    form: str, file: str, make: Make, write: Write, tmp_path: Path
) -> None:
    proposal = {"label": "seldom", "confidence": None, "scores": {}, "model": "tune"}
    rows = [{"prompt": f"question {n}", "completion": f"a free answer {n}", "proposal": proposal} for n in range(4)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}).artifact
    export_dataset(made, tmp_path / "out", form)
    assert "seldom" in (tmp_path / "out" / file).read_text()


@pytest.mark.parametrize("form", ["label-studio", "argilla", "doccano"])
def test_annotators_of_conversations_see_what_was_asked_and_it_is_said(form: str, chats: Any, tmp_path: Path) -> None:
    said: list[str] = []
    export_dataset(chats, tmp_path, form, said.append)
    assert "16 answers of free text left out: annotators are shown what was asked before" in said
    text = next(tmp_path.glob("train.json*")).read_text(encoding="utf-8")
    asked = "Where is order 3?\\n\\nLet me see.\\n\\nWell?\\n\\nsent"
    assert asked in text or asked.replace("3", "4") in text, "a turn that only calls a tool has no text"


def test_argilla_records(judged: Any, tmp_path: Path) -> None:
    said: list[str] = []
    export_dataset(judged, tmp_path, "argilla", said.append)
    first = json.loads((tmp_path / "train.json").read_text())[0]
    assert first["fields"] == {"text": "text 0"}
    assert first["suggestions"] == {"label": {"value": "a", "score": 0.75, "agent": "tune"}}
    assert first["responses"] == {"label": [{"value": "b", "user_id": "ann@example.org"}]}
    assert first["metadata"] == {
        "origin.source": "jsonl",
        "origin.file": "t.jsonl",
        "origin.line": 1,
        "meta": '{"page": 0}',
    }
    asked = json.loads((tmp_path / "settings.json").read_text())["questions"][0]["settings"]
    assert [option["value"] for option in asked["options"]] == ["a", "b", "c"]
    assert "UUID" in said[0]


def test_doccano_documents(judged: Any, make: Make, write: Write, tmp_path: Path) -> None:
    export_dataset(judged, tmp_path / "out", "doccano")
    assert sorted(path.name for path in (tmp_path / "out" / "train").iterdir()) == [
        "ann@example.org.jsonl",
        "bob.jsonl",
    ]
    first = json.loads((tmp_path / "out" / "train" / "ann@example.org.jsonl").read_text().splitlines()[0])
    assert (first["text"], first["label"]) == ("text 0", ["b"])
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(12)]
    plain = make(source={"kind": "jsonl", "path": write("q.jsonl", rows)}, split={"test": 0}).artifact
    export_dataset(plain, tmp_path / "plain", "doccano")
    first = json.loads((tmp_path / "plain" / "train.jsonl").read_text().splitlines()[0])
    assert first["label"] == ["a"]
    assert first["proposal"]["model"] == "given"


def test_a_name_of_an_annotator_leads_nowhere_else(make: Make, write: Write, tmp_path: Path) -> None:
    judgments = [{"annotator": "../../x/y", "label": "a"}]
    rows = [{"text": f"text {n}", "label": "ab"[n % 2], "judgments": judgments} for n in range(12)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}).artifact
    paths = export_dataset(made, tmp_path / "deep" / "out", "doccano")
    assert all(path.resolve().is_relative_to((tmp_path / "deep" / "out").resolve()) for path in paths)
