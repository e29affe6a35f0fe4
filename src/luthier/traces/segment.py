"""Segments: files of JSON lines that one process appends to, so that a kill loses nothing that was written.

    FOLDER/segments/STREAM-TIME.jsonl     lines of {"trace": {…}}, {"feedback": {…}}, or {"trace": {…}, "pending": true}

A line is appended whole, by one call of the system. A segment is locked by the process that writes it; the kernel drops
the lock when that one dies. A trace is pending while personal data is looked for in its words: it stands there without
them, and they follow in a line with the same id. Of a segment that nobody writes any more, a pending trace counts as it
is, and a last line without its end is a broken one.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic_core import PydanticSerializationError, from_json, to_json

from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.traces.retention import SEGMENTS

Table = Literal["traces", "feedback", "rollup"]
TABLES: tuple[Table, ...] = get_args(Table)
_NAMES: dict[str, Table] = {"trace": "traces", "feedback": "feedback"}


def has_former_columns(names: Collection[str]) -> bool:
    """Whether a record or a table has the columns of an earlier version."""
    return "at" in names and "timestamp" not in names


def refuse_former_columns(names: Collection[str], file: Path) -> None:
    """Raise `InputError` for traces that an earlier version wrote; they stay where they are."""
    if has_former_columns(names):
        raise InputError(
            "an earlier version wrote these traces: `at` is `timestamp` now, `finish` is `finish_reason`, and `arm` is "
            "`variant`",
            where=SourceLocation(file=str(file)),
            hint="move the folder of traces away; new requests start another one",
        )


class SegmentLine(NamedTuple):
    """One record of a segment."""

    table: Table
    record: dict[str, Any]
    pending: bool = False


def create_traffic_folder(folder: Path) -> None:
    """Make a folder of traffic, which only its owner reads."""
    with translate_write_errors(folder):
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
        (folder / SEGMENTS).mkdir(exist_ok=True)


class Segment:
    """A file that this process appends to."""

    def __init__(self, folder: Path, stream: str) -> None:
        create_traffic_folder(folder)
        self.path = folder / SEGMENTS / f"{stream}-{time.time_ns():020}.jsonl"
        with translate_write_errors(self.path):
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._opened = time.monotonic()
        self.size = 0
        self._is_synced = True

    @property
    def age_s(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._opened

    def write(self, data: bytes) -> None:
        """Append whole lines; `SystemResourceError` when the disk refuses, and then nothing of them stays."""
        left = data
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            with translate_write_errors(self.path):
                os.ftruncate(self._file, self.size)
                raise
        self.size += len(data)
        self._is_synced = False

    def sync(self) -> None:
        """Flush to the disk, so that a power cut loses nothing either; `SystemResourceError` when it refuses."""
        if not self._is_synced:
            self._is_synced = True
            with translate_write_errors(self.path):
                os.fsync(self._file)

    def close(self) -> None:
        """Give the segment up: any process may turn it into Parquet."""
        try:
            self.sync()
        finally:
            self.abandon()
        if not self.size:
            self.path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close the file alone, as a fork does with the segment of its parent."""
        os.close(self._file)


def is_open_for_writing(path: Path) -> bool:
    """Whether a living process still writes a segment; one that is gone is not held."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def list_segments(folder: Path) -> list[Path]:
    """All segments, in order of their names."""
    return sorted((folder / SEGMENTS).glob("*.jsonl"))


def encode_line(line: SegmentLine) -> bytes:
    """A line as a segment has it."""
    name = "trace" if line.table == "traces" else "feedback"
    return dumps({name: line.record, "pending": True} if line.pending else {name: line.record}) + b"\n"


def join_trace_line(*parts: bytes, pending: bool = False) -> bytes:
    """The line of a trace whose fields were encoded in several objects."""
    fields = b",".join([part[1:-1] for part in parts if part != b"{}"])
    return b'{"trace":{%b}%b}\n' % (fields, b',"pending":true' if pending else b"")


def encode_lines(lines: Iterable[SegmentLine]) -> bytes:
    """Lines as a segment has them."""
    return b"".join(map(encode_line, lines))


def read_lines(
    data: bytes, *, is_over: bool, pending: dict[str, SegmentLine] | None = None
) -> Iterator[SegmentLine | bytes]:
    """Read every line of a segment; a line that cannot be parsed is returned as bytes.

    `pending` holds the traces whose words are still to come, for a segment that is read piece by piece.
    """
    pending = {} if pending is None else pending
    *whole, torn = data.split(b"\n")
    for raw in whole:
        line = _parse_line(raw)
        if line is None:
            yield raw
        elif line.pending:
            pending[str(line.record.get("id"))] = line
        else:
            first = pending.pop(str(line.record.get("id")), None) if line.table == "traces" else None
            yield line if first is None else line._replace(record=first.record | line.record)
    if is_over:
        if torn:
            yield torn
        yield from pending.values()
        pending.clear()


def _parse_line(raw: bytes) -> SegmentLine | None:
    try:
        value = loads(raw)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        for name, table in _NAMES.items():
            if isinstance(value.get(name), dict):
                return SegmentLine(table, value[name], value.get("pending") is True)
    return None


def loads(line: bytes | str) -> Any:
    """A value of JSON; `ValueError` or `RecursionError` where there is none. Half a character stays one."""
    try:
        return from_json(line, cache_strings="keys")
    except ValueError:
        return json.loads(line)


def dumps(value: Any) -> bytes:
    """A value as JSON without spaces; half a character becomes a question mark."""
    try:
        return to_json(value)
    except (PydanticSerializationError, ValueError):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
