"""JSON and calls of tools in answers: every usual form, and every broken one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.metrics.kinds.structured import JsonFieldF1, JsonValid, ToolCallMatch
from luthier.metrics.text.structured import parse_canonical_tool_calls

SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/whole"}},
    "$defs": {"whole": {"type": "integer", "minimum": 0}},
}
Json = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def valid(text: str, **settings: Any) -> bool:
    return JsonValid.model_validate({"kind": "json_valid", **settings}).measure([text], ["{}"]).value == 1


@pytest.mark.parametrize(
    ("text", "with_fences", "without"),
    [
        ('{"a": 1}', True, True),
        ('```json\n{"a": 1}\n```', True, False),
        ('Here it is:\n```\n[1]\n```\nAnything else?', True, False),
        ('```\n1\n```\n```\n2\n```', False, False),
        ("{'a': 1}", False, False),
        ('{"a": NaN}', False, False),
        ("", False, False),
        ("[" * 100_000, False, False),
    ],
)  # fmt: skip
def test_json_or_not(text: str, with_fences: bool, without: bool) -> None:
    assert (valid(text), valid(text, fenced=False)) == (with_fences, without)


@pytest.mark.parametrize(
    ("text", "obeys"),
    [('{"name": "x", "age": 3}', True), ('{"name": "x", "age": -3}', False), ('{"name": "x"}', False), ("null", False)],
)
def test_a_schema(text: str, obeys: bool) -> None:
    import jsonschema

    assert valid(text, obeys=SCHEMA) == obeys
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text)) == obeys


@pytest.mark.parametrize(
    ("schema", "said"),
    [({"type": "whatever"}, "no JSON Schema"), ({"$ref": "https://example.org/x.json"}, "points outside itself")],
)
def test_schemas_that_are_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        JsonValid(obeys=schema)


def field_f1(said: Any, real: Any, **settings: Any) -> float:
    metric = JsonFieldF1.model_validate({"kind": "json_field_f1", **settings})
    return metric.measure([said if isinstance(said, str) else json.dumps(said)], [json.dumps(real)]).value


def test_fields() -> None:
    assert field_f1({"a": 1, "b": 2}, {"a": 1, "b": 3}) == 0.5
    assert field_f1({"a": 1.0}, {"a": 1}) == 1
    assert field_f1({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}) == pytest.approx(2 / 3)
    assert field_f1([1, 2], [2, 1]) == 0
    assert field_f1([1, 2], [2, 1], ordered=False) == 1
    assert field_f1({"a": []}, {"a": {}}) == 0
    assert field_f1("no JSON", {"a": 1}) == 0
    assert field_f1('```json\n{"a": 1}\n```', {"a": 1}) == 1
    assert field_f1('```json\n{"a": 1}\n```', {"a": 1}, fenced=False) == 0


@given(Json, Json)
def test_field_f1_is_symmetric_and_one_for_the_same(a: Any, b: Any) -> None:
    assert field_f1(json.dumps(a), a) == 1
    assert field_f1(json.dumps(a), b) == pytest.approx(field_f1(json.dumps(b), a))


CALL = '{"name": "find", "arguments": {"city": "Rome", "days": 3}}'
SAME = (
    CALL,
    f"[{CALL}]",
    f"I look.\n<tool_call>\n{CALL}\n</tool_call>",
    f"<tool_call>{CALL}",
    f"[TOOL_CALLS] [{CALL}]",
    f"```json\n{CALL}\n```",
    '{"name": "find", "parameters": {"days": 3.0, "city": "Rome"}}',
    json.dumps({"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {
        "name": "find", "arguments": '{"city": "Rome", "days": 3}'}}]}),
)  # fmt: skip


@pytest.mark.parametrize("text", SAME)
def test_one_call_in_many_forms(text: str) -> None:
    assert ToolCallMatch().measure([text], [CALL]).value == 1
    assert ToolCallMatch().measure([CALL], [text]).value == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I would call find.",
        '{"name": "find", "arguments": {"city": "Paris", "days": 3}}',
        '{"name": "look", "arguments": {"city": "Rome", "days": 3}}',
        f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>",
        "<tool_call>{broken</tool_call>",
        '{"name": "find", "arguments": "no JSON"}',
    ],
)
def test_other_calls(text: str) -> None:
    assert ToolCallMatch().measure([text], [CALL]).value == 0


def test_order_and_arguments() -> None:
    other = '{"name": "book", "arguments": {}}'
    there, back = f"[{CALL}, {other}]", f"[{other}, {CALL}]"
    assert ToolCallMatch().measure([there], [back]).value == 1
    assert ToolCallMatch(order=True).measure([there], [back]).value == 0
    assert ToolCallMatch(arguments=False).measure(['{"name": "find", "arguments": {}}'], [CALL]).value == 1


def test_nothing_to_call() -> None:
    assert parse_canonical_tool_calls("The weather is fine.") == []
    assert ToolCallMatch().measure(["It rains.", CALL], ["No tool is needed."] * 2).rows.tolist() == [1, 0]


def test_references_that_cannot_be_read() -> None:
    with pytest.raises(DataError, match="row 1: the reference's calls"):
        ToolCallMatch().measure(["x"], ["<tool_call>{broken</tool_call>"])
    with pytest.raises(DataError, match="row 2: json_field_f1 wants JSON"):
        JsonFieldF1().measure(["1", "1"], ["1", "one"])
