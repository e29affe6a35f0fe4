"""The spool: records as JSON lines that are only ever appended to, so that a kill loses nothing that was written.

    FOLDER/spool/STREAM-TIME.jsonl     one segment: lines of {"n": 17, "trace": {…}} or {"n": 18, "feedback": {…}}

A segment is locked by the process that writes it; the kernel drops the lock when that one dies. A stream is what one
recorder sends; its lines are numbered, so that a line that comes twice is known.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from luthier.core.files import writing
from luthier.traffic.lines import dumps, loads

Table = Literal["traces", "feedback", "rollup"]
TABLES: tuple[Table, ...] = get_args(Table)
_NAMES: dict[str, Table] = {"trace": "traces", "feedback": "feedback"}
_NUMBER = re.compile(rb'\{"n":(\d+),')


class Line(NamedTuple):
    """One record as it was spooled."""

    table: Table
    record: dict[str, Any]


def make_folder(folder: Path) -> None:
    """A folder of traffic, which only its owner reads."""
    with writing(folder):
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
        (folder / "spool").mkdir(exist_ok=True)


class Segment:
    """A file that one process appends to."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent.parent)
        with writing(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        self.path = path
        self._began = time.monotonic()
        self.size = 0
        self._unsynced = False
        self.last = self._mend()

    @classmethod
    def new(cls, folder: Path, stream: str) -> Segment:
        """A segment that nobody has written to."""
        return cls(folder / "spool" / f"{stream}-{time.time_ns():020}.jsonl")

    @classmethod
    def latest(cls, folder: Path, stream: str) -> Segment | None:
        """The last segment of a stream, to be gone on with after its writer died."""
        found = sorted((folder / "spool").glob(f"{stream}-*.jsonl"))
        return cls(found[-1]) if found else None

    def _mend(self) -> int:
        """Cut off a line that a kill left half written; returns the number of the last whole one."""
        self.size = os.fstat(self._handle).st_size
        data = os.pread(self._handle, self.size, 0)
        whole = data.rfind(b"\n") + 1
        if whole < self.size:
            os.ftruncate(self._handle, whole)
            self.size = whole
        found = _NUMBER.match(data, data.rfind(b"\n", 0, max(0, whole - 1)) + 1)
        return int(found[1]) if found else 0

    @property
    def age_s(self) -> float:
        """Since this process opened it."""
        return time.monotonic() - self._began

    def write(self, data: bytes) -> None:
        """Append whole lines; `Unwritable` when the disk refuses, and then nothing of them stays."""
        with ExitStack() as undo:
            undo.callback(os.ftruncate, self._handle, self.size)
            with writing(self.path):
                left = memoryview(data)
                while left:
                    left = left[os.write(self._handle, left) :]
            undo.pop_all()
        self.size += len(data)
        self._unsynced = True

    def sync(self) -> None:
        """Flush to the disk, so that a power cut loses nothing either."""
        if self._unsynced:
            os.fsync(self._handle)
            self._unsynced = False

    def close(self) -> None:
        """Give the segment up: whoever finds it may make Parquet of it."""
        self.sync()
        os.close(self._handle)
        if not self.size:
            self.path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a living process still writes a segment; one that is gone is not held."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def segments(folder: Path) -> list[Path]:
    """All segments, in order of their names."""
    return sorted((folder / "spool").glob("*.jsonl"))


def encoded(lines: Iterable[Line]) -> bytes:
    """Lines as a segment has them, without numbers to know them by: for a writer that is alone."""
    names = {table: name for name, table in _NAMES.items()}
    return b"".join(dumps({"n": 0, names[one.table]: one.record}) + b"\n" for one in lines)


def read(data: bytes) -> Iterator[Line | bytes]:
    """Every line of a segment; one that cannot be read as bytes. A line without its end was never written whole."""
    for raw in data.split(b"\n")[:-1]:
        yield parsed(raw) or raw


def parsed(raw: bytes) -> Line | None:
    """One line; None when it cannot be read."""
    try:
        value = loads(raw)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        for name, table in _NAMES.items():
            if isinstance(value.get(name), dict):
                return Line(table, value[name])
    return None
