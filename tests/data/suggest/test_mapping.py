"""What columns mean: mapped by hand, or recognised from layouts that people already have."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError, RecipeError
from luthier.data.source import Source

Make = Callable[..., Any]
Write = Callable[..., str]

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
LAYOUTS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "openai": ({"messages": CHAT}, [("user", "hi"), ("assistant", "hello")]),
    "openai with parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, CHAT[1]]},
        [("user", "hi"), ("assistant", "hello")],
    ),
    "developer": (
        {"messages": [{"role": "developer", "content": "be kind"}, *CHAT]},
        [("system", "be kind"), ("user", "hi"), ("assistant", "hello")],
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        [("user", "Add.\n\n1 and 2"), ("assistant", "3")],
    ),
    "alpaca without input": (
        {"instruction": "Sing.", "input": "", "output": "La"},
        [("user", "Sing."), ("assistant", "La")],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}], "system": "be kind"},
        [("system", "be kind"), ("user", "hi"), ("assistant", "hello")],
    ),
    "completion": ({"prompt": "2+2=", "completion": "4"}, [("user", "2+2="), ("assistant", "4")]),
    "question": ({"question": "why?", "answer": "so"}, [("user", "why?"), ("assistant", "so")]),
    "turns as prompt": (
        {"prompt": [CHAT[0]], "completion": [CHAT[1]]},
        [("user", "hi"), ("assistant", "hello")],
    ),
    "evals": (
        {"input": [{"role": "system", "content": "0 or 1"}, CHAT[0]], "ideal": ["1", "one"]},
        [("system", "0 or 1"), ("user", "hi"), ("assistant", "1")],
    ),
    "preference": (
        {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
        [("user", "hi"), ("assistant", "hello")],
    ),
    "transcripts": (
        {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go away"},
        [("user", "hi"), ("assistant", "hello")],
    ),
    "classes": ({"text": "where is it", "label": 3}, [("user", "where is it"), ("assistant", "3")]),
    "two columns": ({"foo": "where is it", "bar": "late"}, [("user", "where is it"), ("assistant", "late")]),
    "plain text": ({"text": "once upon a time"}, [("assistant", "once upon a time")]),
}


def _turns(made: Any) -> list[list[tuple[str, str]]]:
    return [[(turn["role"], turn["content"]) for turn in json.loads(row)] for row in made.all()["messages"]]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_layouts_are_recognised_and_said(make: Make, write: Write, name: str) -> None:
    row, turns = LAYOUTS[name]
    made = make(source={"kind": "jsonl", "path": write("rows.jsonl", [row] * 3)}, split={"test": 0}, task="text")
    assert _turns(made) == [turns] * 3
    assert "read as" in made.notes


TAGGED = [{"text": f"where is my parcel {n}", "labels": ["late", "lost"] if n % 2 else ["late"]} for n in range(6)]


def test_several_classes_of_a_row_are_never_cut_to_the_first(make: Make, write: Write) -> None:
    source = {"kind": "jsonl", "path": write("rows.jsonl", TAGGED), "prompt": "text", "answer": "labels"}
    with pytest.raises(DataError, match="expected one answer, got a list of 2, such as 'late'") as refused:
        make(source=source, split={"test": 0})
    assert 'answer: "{labels}"' in refused.value.hint
    assert refused.value.where.line == 2
    made = make(source=source | {"answer": "{labels}"}, split={"test": 0})
    assert [turns[-1][1] for turns in _turns(made)] == ["late", "late, lost"] * 3


def test_of_accepted_answers_the_first_is_learnt_and_said(make: Make, write: Write) -> None:
    rows = [{"question": f"capital {n}?", "answers": ["Paris", "paris"]} for n in range(3)]
    source = {"kind": "jsonl", "path": write("rows.jsonl", rows), "prompt": "question", "answer": "answers"}
    made = make(source=source, split={"test": 0}, task="text")
    assert [turns[-1][1] for turns in _turns(made)] == ["Paris"] * 3
    assert "3 of the first 3 rows have several accepted answers in 'answers': the first is learnt" in made.notes


MARKED = [
    CHAT[0], {"role": "assistant", "content": "no", "weight": 0}, CHAT[0], {"role": "assistant", "content": "no"} |
    {"train": False}, CHAT[0], {"role": "assistant", "content": "yes", "weight": 1, "train": True, "tag": "gold"},
]  # fmt: skip


def test_turns_marked_as_read_only_stay_so(make: Make, write: Write) -> None:
    source = {"kind": "jsonl", "path": write("rows.jsonl", [{"messages": MARKED}] * 2)}
    made = make(source=source, split={"test": 0}, task="text")
    spoken = [turn for turn in json.loads(made.all()["messages"][0]) if turn["role"] == "assistant"]
    assert [turn.get("learn", True) for turn in spoken] == [False, False, True]
    assert spoken[-1]["tag"] == "gold"


@pytest.mark.parametrize(("mark", "wanted"), [({"weight": 0.5}, "expected 0 or 1"), ({"train": "no"}, "true or false")])
def test_a_mark_that_says_neither_is_refused(make: Make, write: Write, mark: dict[str, Any], wanted: str) -> None:
    path = write("rows.jsonl", [{"messages": [CHAT[0], {**CHAT[1], **mark}]}] * 2)
    with pytest.raises(DataError, match=wanted):
        make(source={"kind": "jsonl", "path": path})


def test_unmapped_columns_stay_in_meta(make: Make, write: Write) -> None:
    rows = [{"q": f"q{n}", "a": f"a{n}", "extra": n, "nested": {"x": [n]}, "who": f"c{n}", "key": n} for n in range(4)]
    source = {
        "kind": "jsonl",
        "path": write("rows.jsonl", rows),
        "prompt": "q",
        "answer": "a",
        "id": "key",
        "group": "who",
    }
    made = make(source=source, split={"test": 0})
    assert [json.loads(meta)["nested"] for meta in made.split("train")["meta"]] == [{"x": [n]} for n in range(4)]
    assert made.split("train")["group"].to_list() == ["c0", "c1", "c2", "c3"]


def test_templates_system_and_system_column(make: Make, write: Write) -> None:
    path = write("t.csv", "subject,message,reply,rules\nLate,Where?,Soon.,be kind\n,Why?,So.,\n")
    source = {
        "kind": "csv",
        "path": path,
        "prompt": "{subject}\n\n{message}",
        "answer": "Reply: {reply}",
        "system": "be brief",
        "system_column": "rules",
    }
    made = make(source=source, split={"test": 0})
    assert _turns(made) == [
        [("system", "be kind"), ("user", "Late\n\nWhere?"), ("assistant", "Reply: Soon.")],
        [("system", "be brief"), ("user", "Why?"), ("assistant", "Reply: So.")],
    ]


def test_tools_and_calls(make: Make, write: Write) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "track", "arguments": '{"order": 4}'}}
    turns = [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [call]}]
    row = {"messages": turns, "tools": [{"type": "function", "function": {"name": "track"}}]}
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", [row])}, split={"test": 0})
    stored = json.loads(made.split("train")["messages"][0])[-1]
    assert stored["tool_calls"] == [{"name": "track", "arguments": {"order": 4}, "id": "c1"}]
    assert made.split("train")["kind"][0] == "tool"
    assert json.loads(made.split("train")["tools"][0])[0]["function"]["name"] == "track"


BAD_ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "role": (
        {"messages": [{"role": "asistant", "content": "x"}]},
        "role 'asistant' is unknown",
        "did you mean 'assistant'",
    ),
    "a person": (
        {"messages": [{"author": {"name": "Ann"}, "content": "x"}]},
        "expected a word for who speaks, got an object",
        "user",
    ),
    "no role": ({"messages": [{"content": "x"}]}, "no role", "user"),
    "not messages": ({"messages": "hello"}, "expected JSON", ""),
    "empty list": ({"messages": []}, "is empty", ""),
    "picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "the image has no address",
        "a path, a URL",
    ),
    "list as text": ({"question": {"a": 1}, "answer": "x"}, "expected text, got an object", ""),
    "call": (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1"}}]}]},
        "expected JSON",
        "",
    ),
}


@pytest.mark.parametrize("name", sorted(BAD_ROWS))
def test_a_row_that_cannot_be_mapped_stops_with_its_line(make: Make, write: Write, name: str) -> None:
    bad, problem, remedy = BAD_ROWS[name]
    good = {"messages": CHAT} if "messages" in bad else {"question": "q", "answer": "a"}
    with pytest.raises(DataError, match=problem) as caught:
        make(source={"kind": "jsonl", "path": write("t.jsonl", [good, bad])})
    assert caught.value.where.line == 2
    assert caught.value.where.field
    assert remedy in caught.value.hint


def test_a_missing_column_names_what_there_is(make: Make, write: Write) -> None:
    path = write("t.csv", "text,category\na,b\n")
    with pytest.raises(DataError, match="the columns are text, category") as caught:
        make(source={"kind": "csv", "path": path, "prompt": "txt", "answer": "category"})
    assert caught.value.hint == "did you mean 'text'?"
    assert caught.value.where.field == "prompt"
    with pytest.raises(DataError, match="no column 'sender'"):
        make(source={"kind": "csv", "path": path}, split={"group": "sender"})


def test_columns_that_tell_nothing(make: Make, write: Write) -> None:
    with pytest.raises(DataError, match="cannot tell which columns") as caught:
        make(source={"kind": "csv", "path": write("t.csv", "a,b,c\n1,2,3\n")})
    assert "a, b, c" in caught.value.hint


def test_a_row_without_the_field_is_broken(make: Make, write: Write) -> None:
    rows = [{"question": "q", "answer": "a"}, {"qestion": "q", "answer": "a"}]
    with pytest.raises(DataError, match="no 'question'") as caught:
        make(source={"kind": "jsonl", "path": write("t.jsonl", rows)})
    assert "qestion" in caught.value.hint
    assert caught.value.where.line == 2


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="keep the one"):
        Source.parse({"kind": "csv", "path": "t.csv", "messages": "m", "prompt": "p"})
    with pytest.raises(ValidationError, match="`answer` is not"):
        Source.parse({"kind": "csv", "path": "t.csv", "prompt": "p"})


def test_a_template_that_is_none(make: Make, write: Write) -> None:
    with pytest.raises(RecipeError, match="not a template"):
        make(source={"kind": "csv", "path": write("t.csv", "a,b\n1,2\n"), "prompt": "{a", "answer": "b"})
