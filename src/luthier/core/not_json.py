"""What is wrong with JSON, in words to which a place can be added."""

from __future__ import annotations

from json import JSONDecodeError


def not_json(error: JSONDecodeError, *, column: bool = False) -> str:
    """`Unterminated string`, or `Unterminated string at column 22`: Python's own words, some of which end in `at`."""
    told = error.msg.removesuffix(" at").removesuffix(" starting")
    return f"is not JSON: {told} at column {error.colno}" if column else f"is not JSON: {told}"
