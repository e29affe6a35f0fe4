"""JSON in answers: read from text with fences around it, flattened to fields, and calls of tools in the usual forms."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator

from luthier.core.errors import DataError, SourceLocation

_FENCE = re.compile(r"```[a-zA-Z]*+\s*+(.*?)```", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_LIST = "[TOOL_CALLS]"
"""What stands before a list of calls in Mistral's templates."""
MISSING = object()
"""Stands for what is no JSON, as None is."""


def _check_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"is no JSON Schema: {error.message[:200]}") from error
    if outside := [name for name in _pointers(schema) if not name.startswith("#")]:
        raise ValueError(f"points outside itself: {outside[0]!r}; write what it points to into the schema")
    return schema


JsonSchema = Annotated[dict[str, Any], AfterValidator(_check_json_schema)]
"""A JSON Schema with references only within itself."""


def _pointers(schema: Any) -> list[str]:
    """Every `$ref` and `$dynamicRef` in a schema."""
    if isinstance(schema, dict):
        own = [str(schema[name]) for name in ("$ref", "$dynamicRef") if isinstance(schema.get(name), str)]
        return own + [name for inner in schema.values() for name in _pointers(inner)]
    return [name for inner in schema for name in _pointers(inner)] if isinstance(schema, list) else []


def parse_json_answer(text: str, *, fenced: bool) -> Any:
    """The JSON value that a text is, or that stands in its only fence; `MISSING` when it is none."""
    fences = _FENCE.findall(text) if fenced else []
    try:
        return json.loads(fences[0] if len(fences) == 1 else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return MISSING


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse_json_reference(text: str, row: int, kind: str) -> Any:
    """A reference's JSON value; `DataError` names the row that has none."""
    value = parse_json_answer(text, fenced=True)
    if value is MISSING:
        what = f"row {row + 1}: {kind} wants JSON for a reference, got {text[:60]!r}"
        raise DataError(what, where=SourceLocation(field="reference"), hint=f"leave the row or the metric {kind} out")
    return value


def count_json_leaves(value: Any, *, ordered: bool) -> Counter[tuple[str, str]]:
    """Count every leaf of a JSON value by path and value; unless `ordered`, list positions are ignored."""
    return Counter(_leaves(value, "", ordered=ordered))


def _leaves(value: Any, path: str, *, ordered: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}", ordered=ordered)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index if ordered else ''}]", ordered=ordered)
    else:
        yield path, canonical_json_text(value)


def canonical_json_text(value: Any) -> str:
    """One text for equal values: keys in order, 1 and 1.0 the same."""
    return json.dumps(_whole(value), sort_keys=True, ensure_ascii=False)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parse_canonical_tool_calls(text: str) -> list[tuple[str, str]] | None:
    """The calls of tools in a text, each its name and its arguments as plain JSON; None when they cannot be read.

    Read are `<tool_call>` tags (Hermes, Qwen), `[TOOL_CALLS]` lists (Mistral), and JSON: a call, a list of calls, or a
    message of OpenAI's with `tool_calls`. A text without any of them calls nothing.
    """
    tagged = _CALL.findall(text)
    if not tagged and _LIST in text:
        tagged = [text.partition(_LIST)[2].strip()]
    values = [parse_json_answer(entry, fenced=True) for entry in tagged]
    if not tagged:
        whole = parse_json_answer(text, fenced=True)
        values = [] if whole is MISSING or not isinstance(whole, (dict, list)) else [whole]
    found = [_calls(value) for value in values]
    return None if None in found else [call for some in found for call in some or ()]


def _calls(value: Any) -> list[tuple[str, str]] | None:
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    found = [_call(entry) for entry in (value if isinstance(value, list) else [value])]
    return None if None in found else [call for call in found if call is not None]


def _call(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return None
    function = value.get("function", value)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    given = function.get("arguments", function.get("parameters", {}))
    if isinstance(given, str):
        given = parse_json_answer(given or "{}", fenced=False)
    return (function["name"], canonical_json_text(given)) if isinstance(given, dict) else None
