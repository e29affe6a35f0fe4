"""A record as a server hands it to the process that writes: one line of JSON.

[{…}, […]]         a gateway's request: its beginning, made while the model is at work, and its end, for which alone
                   a client waits
{"trace": {…}}     a request, made at once
{"feedback": {…}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson
from orjson import Fragment
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from luthier.traffic.record import Feedback, Trace

Record = Trace | Feedback
LINE = orjson.OPT_APPEND_NEWLINE
Begun = Mapping[str, Any]
"""What is known of a request while the model is at work, by the names of a trace's fields."""
End = tuple[Any, ...]
"""What is known of it at its end only, in the order of `ENDED`."""
ENDED = (
    *("answer", "finish", "status", "error", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("latency_s", "first_token_s", "scores"),
)


def line(record: Record) -> bytes:
    """A record by its name. The writer leaves out what says nothing.

    A trace may stand in a request's way: orjson takes less than half of pydantic's time, above all where caches are
    cold. Of feedback, what was not said stays apart from what was taken back.
    """
    try:
        if isinstance(record, Trace):
            return orjson.dumps({"trace": record.__dict__}, inside, LINE)
        return b'{"feedback":%b}\n' % record.__pydantic_serializer__.to_json(record, exclude_unset=True)
    except (TypeError, PydanticSerializationError):  # what was asked for holds something that JSON cannot say
        return b'{"%b":%b}\n' % (b"trace" if isinstance(record, Trace) else b"feedback", _plainly(record))


def begun(told: Begun) -> Fragment:
    """The beginning of a request's line."""
    try:
        return Fragment(orjson.dumps(told, inside))
    except TypeError:
        return Fragment(_said(told, {**told, "parameters": {}, "messages": ()}))


def ended(begun: Fragment, end: End) -> bytes:
    """The line of a request that is over."""
    try:
        return orjson.dumps((begun, end), inside, LINE)
    except TypeError:
        return orjson.dumps((begun, Fragment(_said(end, (None, *end[1:])))), option=LINE)


def parsed(value: Mapping[str, Any] | list[Any]) -> Mapping[str, Any]:
    """A line that was read: `{"trace": {…}}` or `{"feedback": {…}}`."""
    if not isinstance(value, list):
        return value
    begun, end = value
    return {"trace": begun | dict(zip(ENDED, end, strict=True))}


def inside(value: object) -> dict[str, Any]:
    """What of it JSON can say."""
    if isinstance(value, BaseModel):
        return value.__dict__
    raise TypeError(f"{type(value).__name__} is nothing of JSON's")


def _said(value: Begun | End, bare: Begun | End) -> bytes:
    """Half a character escaped; bare where it is nested too deep."""
    for one in (value, bare):
        try:
            return json.dumps(one, default=_whatever).encode()
        except (ValueError, RecursionError):
            continue
    raise AssertionError("what is bare is nested in nothing")


def _whatever(value: object) -> Any:
    return value.__dict__ if isinstance(value, BaseModel) else str(value)


def _plainly(record: Record) -> bytes:
    """Half a character escaped, and without settings that are nested too deep."""
    try:
        return json.dumps(record.model_dump(exclude_unset=True), default=str).encode()
    except (PydanticSerializationError, ValueError, RecursionError):
        bare = record.model_dump(exclude_unset=True, exclude={"parameters", "messages", "answer"})
        return json.dumps(bare, default=str).encode()
