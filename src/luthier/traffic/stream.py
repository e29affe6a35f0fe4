"""Requests and what was said of them as one stream in order of time: from a traffic folder, or a file of JSON lines.

Only ever imported inside a verb.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

from pydantic import ValidationError

from luthier.core.errors import DataError, Where
from luthier.traffic.record import Feedback, Trace

Event = Trace | Feedback
_HELD = 10_000
"""Lines of a file that may stand out of order."""


def events(log: Path, since: datetime | None = None, until: datetime | None = None) -> Iterator[Event]:
    """Everything from `since` on and before `until`; `DataError` names what cannot be read."""
    if log.is_dir():
        from luthier.traffic.read import feedback, traces

        return heapq.merge(traces(log, since, until), feedback(log, since, until), key=lambda one: one.at)
    if not log.exists():
        remedy = "name a traffic folder, or a file with one JSON object a line"
        raise DataError("there is no such log", where=Where(file=str(log)), remedy=remedy)
    return (one for one in _lines(log) if (since is None or one.at >= since) and (until is None or one.at < until))


def _lines(path: Path) -> Iterator[Event]:
    """The lines in order of time, as far as a bounded heap can bring them there."""
    held: list[tuple[datetime, int, Event]] = []
    numbers = count()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            for one in _read(line, path, number):
                heapq.heappush(held, (one.at, next(numbers), one))
                if len(held) > _HELD:
                    yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]


def _read(line: bytes, path: Path, number: int) -> list[Event]:
    """What a line holds: a request with what was said of it, or feedback about one; nothing where it is blank."""
    from luthier.traffic.adopt import own

    try:
        return list(own(json.loads(line))) if line.strip() else []
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        remedy = "each line is a request (`luthier traces export` writes such) or feedback about one"
        field, what = None, "no JSON object"
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            field, what = ".".join(map(str, first["loc"])) or None, f"no {error.title.lower()}: {first['msg']}"
        raise DataError(what, where=Where(file=str(path), line=number, field=field), remedy=remedy) from None
