"""Requests and what was said of them as one stream in order of time, from a traffic folder or a file of JSON lines; and
what was written to a folder since one last looked.

Only ever imported inside a verb.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

from pydantic import ValidationError

from luthier.core.errors import DataError, SourceLocation
from luthier.traces.compact import day_of
from luthier.traces.folder import GRACE_S, list_replaced_files
from luthier.traces.record import Feedback, Trace
from luthier.traces.retention import SEGMENTS
from luthier.traces.segment import SegmentLine, is_open_for_writing, list_segments, read_lines

Event = Trace | Feedback
_HELD = 10_000
"""Lines of a file that may stand out of order."""


def iter_trace_events(log: Path, since: datetime | None = None, until: datetime | None = None) -> Iterator[Event]:
    """Everything from `since` on and before `until`; `DataError` names what cannot be read."""
    if log.is_dir():
        from luthier.traces.store import read_feedback, read_traces

        return heapq.merge(
            read_traces(log, since, until), read_feedback(log, since, until), key=lambda entry: entry.timestamp
        )
    if not log.exists():
        hint = "name a traffic folder, or a file with one JSON object a line"
        raise DataError("there is no such log", where=SourceLocation(file=str(log)), hint=hint)
    return (
        line
        for line in _lines(log)
        if (since is None or line.timestamp >= since) and (until is None or line.timestamp < until)
    )


def _lines(path: Path) -> Iterator[Event]:
    """The lines in order of time, as far as a bounded heap can bring them there."""
    held: list[tuple[datetime, int, Event]] = []
    numbers = count()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            for entry in _read(line, path, number):
                heapq.heappush(held, (entry.timestamp, next(numbers), entry))
                if len(held) > _HELD:
                    yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]


def _read(line: bytes, path: Path, number: int) -> list[Event]:
    """What a line holds: a request with what was said of it, or feedback about one; nothing where it is blank."""
    from luthier.traces.logs import parse_own_log_line

    try:
        return list(parse_own_log_line(json.loads(line))) if line.strip() else []
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        hint = "each line is a request (`luthier traces export` writes such) or feedback about one"
        field, what = None, "no JSON object"
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            field, what = ".".join(map(str, first["loc"])) or None, f"no {error.title.lower()}: {first['msg']}"
        raise DataError(what, where=SourceLocation(file=str(path), line=number, field=field), hint=hint) from None


class TraceTail:
    """What was written to a traffic folder since one last looked: each segment is read on from where one was.

    A segment that became Parquet meanwhile is read to its end where it is kept for those who began before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, int] = {}
        self._pending: dict[str, dict[str, SegmentLine]] = {}
        self._looked: float | None = None

    @property
    def goes_on(self) -> bool:
        """Whether nothing can have been removed that was not read; otherwise `skip`, and read the whole folder."""
        return self._looked is not None and time.monotonic() - self._looked < GRACE_S / 2

    def skip(self) -> None:
        """Take everything that is written now as read."""
        self._read, self._pending = {}, {}
        for _ in self._lines():
            pass

    def fresh(self) -> Iterator[Trace | Feedback]:
        """Every record that was written since, in the order of its segment; what cannot be read is left to compacting,
        which keeps it apart."""
        for line in self._lines():
            if isinstance(line, SegmentLine) and day_of(line.record):
                kind: type[Trace] | type[Feedback] = Trace if line.table == "traces" else Feedback
                yield kind.model_validate(line.record)

    def _lines(self) -> Iterator[SegmentLine | bytes]:
        """The whole lines of each segment from where it was read to; segments that were replaced come after those that
        were not, so that one which moves meanwhile is not missed."""
        looked, known = time.monotonic(), dict[str, int]()
        for path in (*list_segments(self._folder), *list_replaced_files(self._folder, SEGMENTS)):
            name = path.name.rpartition("~")[2]
            if name not in known:
                begin, is_over = self._read.get(name, 0), not is_open_for_writing(path)
                data = self._bytes(path, begin)
                whole = data[: data.rfind(b"\n") + 1]
                known[name] = begin + len(whole)
                yield from read_lines(whole, is_over=is_over, pending=self._pending.setdefault(name, {}))
        self._pending = {name: pending for name, pending in self._pending.items() if name in known}
        self._read, self._looked = known, looked

    def _bytes(self, path: Path, begin: int) -> bytes:
        for file_path in (path, self._folder / "gone" / f"{SEGMENTS}~{path.name}"):
            try:
                with file_path.open("rb") as file:
                    file.seek(begin)
                    return file.read()
            except FileNotFoundError:
                continue
        return b""
