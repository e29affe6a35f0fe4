"""Columns are held to their rules, and a drop names column and rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.chat.messages import Message
from luthier.core.errors import DataError
from luthier.data.engine.corpus import InMemoryRows
from luthier.data.ops.schema import ColumnRule, SchemaOperator
from luthier.data.row import Row

Make = Callable[..., Any]
Write = Callable[..., str]


def _rows(*values: Any) -> list[Row]:
    messages = (Message(role="user", content="q"), Message(role="assistant", content="a"))
    return [
        Row(n, f"{n:016x}", "csv", "f.csv", n + 2, "chat", messages, (), {} if value is None else {"x": value})
        for n, value in enumerate(values)
    ]


def _broken(rule: dict[str, Any], *values: Any) -> list[str]:
    operator = SchemaOperator.model_validate({"columns": {"x": rule}, "action": "flag"})
    return list(operator.settle(InMemoryRows(operator, _rows(*values))).attributes["broken"])


@pytest.mark.parametrize(
    ("rule", "value", "how"),
    [
        ({}, None, "x missing"),
        ({"required": False}, None, ""),
        ({"allowed": ["a", "b"]}, "b", ""),
        ({"allowed": ["a", "b"]}, "B", "x not allowed"),
        ({"allowed": [1, 2]}, "2", ""),
        ({"type": "number"}, "3.5", ""),
        ({"type": "number"}, "three", "x not a number"),
        ({"type": "number"}, "nan", "x not a number"),
        ({"type": "integer"}, 3.5, "x not an integer"),
        ({"type": "boolean"}, "yes", ""),
        ({"type": "text"}, 3, "x not a text"),
        ({"at_least": 0, "at_most": 10}, 11, "x out of range"),
        ({"at_least": 0}, "-1", "x out of range"),
        ({"at_least": 0}, "none", "x not a number"),
        ({"min_chars": 2}, "a", "x too short"),
        ({"max_chars": 2}, "abc", "x too long"),
        ({"pattern": "[A-Z]{2}-[0-9]+"}, "AB-12", ""),
        ({"pattern": "[A-Z]{2}-[0-9]+"}, "AB-12x", "x not of its pattern"),
        ({"pattern": "a|b"}, "ab", "x not of its pattern"),
    ],
)
def test_each_rule(rule: dict[str, Any], value: Any, how: str) -> None:
    assert _broken(rule, value) == [how]


def test_unique_keeps_the_first_and_does_not_mind_missing_ones() -> None:
    rule = {"unique": True, "required": False}
    assert _broken(rule, "a", "b", "a", None, None, "b") == ["", "", "x not unique", "", "", "x not unique"]


def test_rows_are_dropped_with_column_and_rule(make: Make, write: Write) -> None:
    rows = [{"prompt": f"q{n}", "completion": f"a{n}", "age": str(20 + n), "level": "low"} for n in range(6)]
    rows[2]["age"] = "old"
    rows[4]["level"] = "none"
    columns = {"age": {"type": "integer"}, "level": {"allowed": ["low", "high"]}, "prompt": {"unique": True}}
    source = {"kind": "jsonl", "path": write("t.jsonl", rows)}
    asked = {"source": source, "split": {"test": 0}, "task": "text"}
    made = make(**asked, ops=[{"kind": "schema", "columns": columns}])
    assert made.summary.dropped == {"schema age not an integer": 1, "schema level not allowed": 1}
    with pytest.raises(DataError, match="age is not an integer: got 'old', expected type integer") as caught:
        make(**asked, ops=[{"kind": "schema", "columns": columns, "action": "stop"}])
    assert (caught.value.where.line, caught.value.where.field) == (3, "age")


def test_a_pattern_that_cannot_be_read_is_refused() -> None:
    for pattern in ("(", "(?=a)b", r"(a)\1"):
        with pytest.raises(ValidationError, match="cannot be read"):
            ColumnRule(pattern=pattern)
    with pytest.raises(ValidationError, match="there is no setting 'allow' here; did you mean 'allowed'"):
        SchemaOperator.model_validate({"columns": {"x": {"allow": ["a"]}}})


def test_a_pattern_of_the_users_takes_linear_time() -> None:
    assert _broken({"pattern": "(a+)+b"}, "a" * 100_000) == ["x not of its pattern"]
