"""What was written to a traffic folder since one last looked: each segment is read on from where one was.

A segment that became Parquet meanwhile is read to its end where it is kept for those who began before. Only ever
imported inside a verb.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from luthier.traffic.compact import day_of
from luthier.traffic.folder import GRACE_S, replaced
from luthier.traffic.record import Feedback, Trace
from luthier.traffic.spool import Line, read, segments


class Arrivals:
    """Knows how far each segment was read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, int] = {}
        self._looked: float | None = None

    @property
    def goes_on(self) -> bool:
        """Whether nothing can have been removed that was not read; otherwise `skip`, and read the whole folder."""
        return self._looked is not None and time.monotonic() - self._looked < GRACE_S / 2

    def skip(self) -> None:
        """Take everything that is written now as read."""
        self._read = {name: len(_whole(data)) for name, data in self._each({})}
        self._looked = time.monotonic()

    def fresh(self) -> Iterator[Trace | Feedback]:
        """Every record that was written since, in the order of its segment; what cannot be read is left to compacting,
        which keeps it apart."""
        looked, known = time.monotonic(), dict[str, int]()
        for name, data in self._each(self._read):
            whole = _whole(data)
            known[name] = self._read.get(name, 0) + len(whole)
            for line in read(whole):
                if isinstance(line, Line) and day_of(line.record):
                    kind: type[Trace] | type[Feedback] = Trace if line.table == "traces" else Feedback
                    yield kind.model_validate(line.record)
        self._read, self._looked = known, looked

    def _each(self, begin: dict[str, int]) -> Iterator[tuple[str, bytes]]:
        """The bytes of each segment from where it was read to; those that were replaced come after those that were
        not, so that one which moves meanwhile is not missed."""
        seen = set[str]()
        for path in (*segments(self._folder), *replaced(self._folder, "spool")):
            name = path.name.rpartition("~")[2]
            if name not in seen:
                seen.add(name)
                yield name, self._bytes(path, begin.get(name, 0))

    def _bytes(self, path: Path, begin: int) -> bytes:
        for place in (path, self._folder / "gone" / f"spool~{path.name}"):
            try:
                with place.open("rb") as file:
                    file.seek(begin)
                    return file.read()
            except FileNotFoundError:
                continue
        return b""


def _whole(data: bytes) -> bytes:
    """As far as lines are whole."""
    return data[: data.rfind(b"\n") + 1]
