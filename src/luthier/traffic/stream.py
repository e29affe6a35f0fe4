"""Requests and what was said of them as one stream in order of time: from a traffic folder, or a file of JSON lines.

Only ever imported inside a verb.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import datetime
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
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                one = _read(line, path, number)
                heapq.heappush(held, (one.at, number, one))
                if len(held) > _HELD:
                    yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]


def _read(line: str, path: Path, number: int) -> Event:
    """A line that names a request in `trace` is feedback, any other a request."""
    kind: type[Trace] | type[Feedback] = Feedback if '"trace"' in line and '"model"' not in line else Trace
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        remedy = "each line is a request (`luthier traces export` writes such) or feedback about one"
        where = Where(file=str(path), line=number, field=field or None)
        raise DataError(f"no {kind.__name__.lower()}: {first['msg']}", where=where, remedy=remedy) from None
