"""Copies: the one that the rule names stays, and the others name it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.chat.messages import Message, ToolCall
from luthier.data.engine.corpus import InMemoryRows
from luthier.data.ops.exact_dedup import ExactDedup
from luthier.data.row import Row


def _row(n: int, prompt: str, answer: str = "yes", **meta: Any) -> Row:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Row(n, f"{n:016x}", "csv", "f.csv", n + 2, "chat", messages, meta=meta)


ROWS = [
    _row(0, "Where is it?", at="2024-05-01", score=3),
    _row(1, "where  is IT?", at="2025-01-01T12:00:00Z", score=1),
    _row(2, "Where is it?   ", at="2023-02-02", score=7.5),
    _row(3, "Where is my parcel?", at="2026-01-01", score=9),
]


@pytest.mark.parametrize(
    ("rule", "stays"),
    [
        ({}, 0),
        ({"keep": "last"}, 2),
        ({"keep": "longest"}, 2),
        ({"keep": "newest", "by": "at"}, 1),
        ({"keep": "best", "by": "score"}, 2),
    ],
)
def test_which_copy_stays_is_a_rule(rule: dict[str, Any], stays: int) -> None:
    operator = ExactDedup(**rule)
    outcome = operator.settle(InMemoryRows(operator, ROWS))
    assert set(outcome.drops) == {0, 1, 2} - {stays}
    assert {drop.twin for drop in outcome.drops.values()} == {ROWS[stays].id}
    assert list(outcome.attributes["copies"]) == [3, 3, 3, 1]


def test_a_rule_without_its_column_is_refused() -> None:
    with pytest.raises(ValidationError, match="does not name the column"):
        ExactDedup(keep="best")


def test_calls_are_a_part_of_the_answer_and_tools_of_the_prompt() -> None:
    """All that answered one question with a call and no text were taken for copies of each other."""

    def asked(n: int, tool: str, city: str) -> Row:
        call = ToolCall(name=tool, arguments={"city": city})
        turns = (Message(role="user", content="Will it rain?"), Message(role="assistant", tool_calls=(call,)))
        return replace(_row(n, ""), messages=turns, tools=({"name": tool},))

    rows = [
        asked(0, "weather", "Ulm"),
        asked(1, "forecast", "Ulm"),
        asked(2, "weather", "Bonn"),
        asked(3, "weather", "Ulm"),
    ]
    outcome = ExactDedup().settle(InMemoryRows(ExactDedup(), rows))
    assert sorted(outcome.drops) == [3]
    assert list(outcome.attributes["conflict"]) == [True, False, True, True], (
        "another tool on offer is another question"
    )
