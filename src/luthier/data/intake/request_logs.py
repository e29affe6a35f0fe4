"""Logs of requests and their responses, which are no rows yet: what they are, and what takes them in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.core.errors import DataError, Where

_ASKED = ("messages", "prompt")
_JOINED = "jq -cs 'group_by(.custom_id)[] | add | {request: .body, response}' REQUESTS.jsonl ANSWERS.jsonl > log.jsonl"
_THEN = "and `luthier new NAME --from traces` writes a recipe of it"


def refused(rows: Sequence[dict[str, Any]], file: str) -> DataError | None:
    """Why such rows make no recipe as they are, and what makes one of them; nothing for any other rows.

    A row holds the request and its response, or one of both, as OpenAI's batches give them; objects inside may have
    become columns already.
    """
    where = Where(file=file)
    first = rows[0] if rows else {}
    if _asks(first, "request") and _names(first, "response"):
        remedy = f"`luthier traces import {file}` takes it in, {_THEN}"
        return DataError("is a log of requests and responses, not of prompts and answers", where=where, remedy=remedy)
    if "custom_id" in first and (_asks(first, "body") != _names(first, "response")):
        has, lacks = ("requests", "answers") if _asks(first, "body") else ("answers", "requests")
        remedy = f"put both together: {_JOINED}; `luthier traces import log.jsonl` takes that in, {_THEN}"
        return DataError(f"holds the {has} of a batch without their {lacks}", where=where, remedy=remedy)
    return None


def _asks(row: dict[str, Any], column: str) -> bool:
    inside = row.get(column)
    return any(f"{column}.{name}" in row or (isinstance(inside, dict) and name in inside) for name in _ASKED)


def _names(row: dict[str, Any], column: str) -> bool:
    return column in row or any(name.startswith(f"{column}.") for name in row)
