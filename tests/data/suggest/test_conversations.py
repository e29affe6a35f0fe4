"""Rows that are single messages become conversations: in order, in bounded memory, and none told twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.data.columns import conversations
from luthier.data.columns.conversations import TurnColumns
from luthier.data.row import MOST_CHARACTERS, BrokenRow, SourceRecord
from luthier.data.source import Source

TURNS = TurnColumns(conversation="talk", role="by", content="text", order="at")
Said = tuple[str, str, str, Any]
WRITE = {"csv": "write_csv", "jsonl": "write_ndjson", "parquet": "write_parquet"}


def _records(said: Iterable[Said], **more: Any) -> list[SourceRecord | BrokenRow]:
    return [
        SourceRecord({"talk": talk, "by": by, "text": text, "at": at, **more}, "t.csv", line)
        for line, (talk, by, text, at) in enumerate(said, start=2)
    ]


def _gathered(found: Iterable[SourceRecord | BrokenRow], turns: TurnColumns = TURNS) -> tuple[list[Any], list[str]]:
    notes: list[str] = []
    return list(turns.gathered(found, notes.append)), notes


def _turns(record: SourceRecord) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in record.values["text"]]


@pytest.mark.parametrize("ending", WRITE)
def test_a_file_of_messages_is_read_as_its_conversations(tmp_path: Path, ending: str) -> None:
    said = [
        ("a", "System", "Be kind.", "2026-01-01T09:00:00Z"),
        ("a", "customer", "Hello?", "2026-01-01T10:00:00Z"),
        ("a", "customer", "Are you there?", "2026-01-01T11:01:00+01:00"),
        ("a", "Agent", "Yes.", "2026-01-01T10:02:00Z"),
        ("b", "bot", "I can help.", "2026-01-02 10:01:00"),
        ("b", "human", "Help!", "2026-01-02 10:00:00"),
        ("c", "user", "Where is it?", "2026-01-03"),
        ("c", "gpt", "On its way.", "2026-01-04"),
        ("c", "user", "Thanks!", "2026-01-05"),
        ("d", "user", "Nobody there?", "2026-01-06"),
    ]
    rows = [dict(zip(("talk", "by", "text", "at"), one, strict=True), shop=one[0] * 2) for one in said]
    getattr(pl.DataFrame(rows), WRITE[ending])(tmp_path / f"t.{ending}")
    turns = {"conversation": "talk", "role": "by", "content": "text", "order": "at"}
    source = Source.parse({"kind": ending, "path": f"t.{ending}", "turns": turns, "id": "talk", "group": "shop"})
    notes: list[str] = []
    found = list(source.mapped(tmp_path, notes.append))
    first = {"csv": 2}.get(ending, 1)
    assert [(one[0].file, one[0].line) for one in found] == [(f"t.{ending}", first + at) for at in (0, 4, 6, 9)]
    assert [[(turn.role, turn.content) for turn in one[1].messages] for one in found] == [
        [("system", "Be kind."), ("user", "Hello?\n\nAre you there?"), ("assistant", "Yes.")],
        [("user", "Help!"), ("assistant", "I can help.")],
        [("user", "Where is it?"), ("assistant", "On its way.")],
        [("user", "Nobody there?")],
    ]
    assert [(one[1].kind, one[1].key, one[1].group) for one in found[:2]] == [("chat", "a", "aa"), ("chat", "b", "bb")]
    assert found[1][1].meta == {"talk": "b", "at": ["2026-01-02 10:00:00", "2026-01-02 10:01:00"], "shop": "bb"}
    assert "10 messages make 4 conversations" in notes
    assert any(note.startswith("1 message is left out") for note in notes)
    assert [parts.key for _, parts in source.model_copy(update={"limit": 2}).glance(tmp_path)] == ["a", "b"]


def test_messages_of_several_conversations_may_stand_between_each_other() -> None:
    said = [("a", "user", "1", 1), ("b", "user", "2", 2), ("a", "agent", "3", 3), ("b", "agent", "4", 4)]
    found, _ = _gathered(_records(said))
    assert [(one.line, _turns(one)) for one in found] == [
        (2, [("user", "1"), ("assistant", "3")]),
        (3, [("user", "2"), ("assistant", "4")]),
    ]


@pytest.mark.parametrize(
    ("row", "problem", "line"),
    [
        (("a", "ghost", "x", 3), "role 'ghost' is unknown, in conversation 'a', which begins on line 2", 4),
        (("a", "user", "x", "noon"), "expected a number or a time such as 2026-05-01T10:00:00Z, got 'noon'", 4),
        (("", "user", "x", 3), "the row names no conversation", 4),
    ],
)
def test_a_message_that_cannot_be_read_is_named(row: Said, problem: str, line: int) -> None:
    found, _ = _gathered(_records([("a", "user", "1", 1), ("a", "agent", "2", 2), row, ("b", "user", "3", 4)]))
    broken = [one for one in found if isinstance(one, BrokenRow)]
    assert len(broken) == 1
    assert broken[0].problem.startswith(problem)
    assert broken[0].line == line


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("talk,by,text\na,user,1\na,agent,2\n")
    for turns in ({"conversation": "talks"}, {"conversation": "talk"}, {"conversation": "talk", "role": "by"}):
        source = Source.parse({"kind": "csv", "path": "t.csv", "turns": turns})
        with pytest.raises(DataError, match=r"the row has no '(talks|role|content)'"):
            source.glance(tmp_path)


def test_broken_rows_of_the_file_are_passed_on() -> None:
    broken = BrokenRow("t.csv", 9, "is no row")
    found, _ = _gathered([*_records([("a", "user", "1", 1), ("a", "agent", "2", 2)]), broken])
    assert found[0] is broken
    assert _turns(found[1]) == [("user", "1"), ("assistant", "2")]


def test_a_row_that_comes_when_its_conversation_is_over_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "SILENT", 3)
    between = [(f"b{n}", "user", "x", n) for n in range(3)]
    found, _ = _gathered(_records([("a", "user", "1", 1), *between, ("a", "agent", "2", 2)]))
    late = [one for one in found if isinstance(one, BrokenRow)]
    assert [(one.line, one.problem) for one in late] == [
        (6, "conversation 'a', which began on line 2, was over before this row of it")
    ]
    assert "sort the rows by conversation" in str(late[0].error())


def test_a_conversation_goes_on_in_the_next_file_only_where_the_first_ends_with_it() -> None:
    rows = _records([("a", "user", "1", 1), ("b", "user", "2", 2), ("b", "agent", "3", 3), ("a", "agent", "4", 4)])
    moved = [row if row.line < 4 else row._replace(file="u.csv") for row in rows]
    found, _ = _gathered(moved)
    assert [_turns(one) for one in found if isinstance(one, SourceRecord)] == [
        [("user", "1")],
        [("user", "2"), ("assistant", "3")],
    ]
    assert [one.line for one in found if isinstance(one, BrokenRow)] == [5]


def test_few_conversations_are_held_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "SILENT", 10)
    read = 0

    def rows() -> Iterator[SourceRecord | BrokenRow]:
        nonlocal read
        for number in range(3000):
            read += 1
            yield from _records([(f"a{number // 3}", ("user", "agent")[number % 2], "x", number)])

    for told, one in enumerate(TURNS.gathered(rows(), lambda text: None)):
        assert isinstance(one, SourceRecord)
        assert read <= (told + 1) * 3 + 10
    assert told == 999


def test_long_rows_are_held_no_longer_than_memory_allows() -> None:
    text = "x" * (MOST_CHARACTERS // 4)
    said = ((f"a{number // 2}", ("user", "agent")[number % 2], text, number) for number in range(12))
    records = ((record, number) for number, record in enumerate(_records(said)))
    seen = 0

    def rows() -> Iterator[SourceRecord | BrokenRow]:
        nonlocal seen
        for record, number in records:
            seen = number
            yield record

    told = [seen for _ in TURNS.gathered(rows(), lambda text: None)]
    assert told[0] < 6


def test_a_conversation_of_half_a_file_is_refused() -> None:
    text = "x" * (MOST_CHARACTERS // 2)
    said = [("a", "user", text, number) for number in range(5)]
    found, _ = _gathered(_records(said))
    assert isinstance(found[0], BrokenRow)
    assert "check that 'talk' is what tells conversations apart" in found[0].hint


def test_what_the_settings_say_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="`turns` is set beside"):
        Source.parse({"kind": "csv", "path": "t.csv", "turns": {"conversation": "a"}, "messages": "b"})
    with pytest.raises(ValidationError, match="did you mean 'conversation'"):
        Source.parse({"kind": "csv", "path": "t.csv", "turns": {"conversations": "a"}})
