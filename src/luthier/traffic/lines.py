"""JSON as the spool has it: read and written in Rust, and by the standard library where that is too strict."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json


def loads(line: bytes | str) -> Any:
    """A value; `ValueError` or `RecursionError` where there is none. Half a character is read as Python does."""
    try:
        return from_json(line, cache_strings="keys")
    except ValueError:
        return json.loads(line)


def dumps(value: Any) -> bytes:
    """A value without spaces; half a character becomes a question mark."""
    try:
        return to_json(value)
    except (PydanticSerializationError, ValueError):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
