"""The process that writes traffic to the disk: it takes records from shared memory, redacts them, and lets them go.

It runs apart from the server, so that looking for personal data costs no request anything, and so that what the server
handed over is written also when the server is killed. Where a record ends in that memory is the number of its line.
What comes through its standard input says nothing but that somebody waits; its end, that no more records come.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import LuthierError
from luthier.traffic.compact import tidy
from luthier.traffic.handed import parsed
from luthier.traffic.lines import dumps, loads
from luthier.traffic.place import Keeping
from luthier.traffic.record import said
from luthier.traffic.redact import Redactor
from luthier.traffic.ring_buffer import Placed, RingBuffer
from luthier.traffic.spool import Segment

_TICK_S = 1.0
_SOMEBODYS_WORDS = frozenset(
    ("messages", "answer", "error", "user", "meta", "parameters", "by", "correction", "comment")
)
_PAUSE_S = 0.25
"""Between two looks: whoever records wakes nobody up, and the more records are looked through at once, the less of each
one's cost is finding caches cold."""


class Writer:
    """Writes one stream."""

    def __init__(self, folder: Path, stream: str, keeping: Keeping) -> None:
        self._folder, self._stream, self._keeping = folder, stream, keeping
        self._redactor = Redactor(keeping)
        self._segment = Segment.latest(folder, stream)
        self._last = self._segment.last if self._segment else 0
        self._closed: list[Path] = []
        self._tidying: threading.Thread | None = None
        self._synced = time.monotonic()
        self._said = ""

    def serve(self, source: int, ring: RingBuffer) -> None:
        """Write whatever comes, until nobody can put in any more."""
        self._tidy()
        over = False
        while not over:
            is_called = select.select([source], [], [], _PAUSE_S)[0]
            over = bool(is_called) and not os.read(source, 1 << 12)
            while taken := ring.take():
                self._keep(taken)
                ring.let_go(taken[-1].end)
                self._tend()
            self._tend()
        self._end()

    def _keep(self, taken: Sequence[Placed]) -> None:
        """Redact and append; what a writer that died has written is left out."""
        made = bytearray()
        for end, line in taken:
            if end > self._last:
                self._last = end
                made += dumps({"n": end, **self._made(parsed(loads(line)))}) + b"\n"
        if made:
            self._append(bytes(made))

    def _made(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The record as it is kept: nothing of a trace that every trace says by itself, and no personal data."""
        if "trace" in value:
            return {"trace": self._redacted(said(value["trace"]))}
        return {"feedback": self._redacted(value["feedback"])}

    def _redacted(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record without personal data; one that cannot be looked through keeps nothing that anybody wrote."""
        try:
            return self._redactor.record(record)
        except Exception as error:  # noqa: BLE001  # one record must not end all recording
            self._say(f"a record could not be looked through for personal data ({type(error).__name__}); its texts go")
            return {name: value for name, value in record.items() if name not in _SOMEBODYS_WORDS}

    def _append(self, made: bytes) -> None:
        """Write, however long the disk refuses: the sender keeps what comes meanwhile, within its bounds."""
        while True:
            try:
                self._segment = self._segment or Segment.new(self._folder, self._stream)
                self._segment.write(made)
            except LuthierError as error:
                self._say(str(error))
                threading.Event().wait(_TICK_S)
            else:
                return

    def _tend(self) -> None:
        """Flush, begin a new segment when the old one is large or old, and let it become Parquet."""
        segment = self._segment
        if segment is None:
            return
        if time.monotonic() - self._synced >= _TICK_S:
            segment.sync()
            self._synced = time.monotonic()
        if segment.size >= self._keeping.segment_bytes or segment.age_s >= self._keeping.segment_s:
            segment.close()
            self._closed.append(segment.path)
            self._segment = None
            self._tidy()

    def _tidy(self) -> None:
        """Compact on the side, one thread at a time."""
        if self._tidying is None or not self._tidying.is_alive():
            closed, self._closed = tuple(self._closed), []
            self._tidying = threading.Thread(target=self._compact, args=(closed,))
            self._tidying.start()

    def _compact(self, closed: Sequence[Path]) -> None:
        if (error := tidy(self._folder, self._keeping, closed)) is not None:
            self._say(str(error))

    def _end(self) -> None:
        if self._segment is not None:
            self._segment.close()
        if self._tidying is not None:
            self._tidying.join()

    def _say(self, text: str) -> None:
        """Tell the server's log, once for each thing that is wrong."""
        if text != self._said:
            self._said = text
            with contextlib.suppress(OSError):  # the server's log may be gone with it
                sys.stderr.write(f"traffic: {text}\n")
                sys.stderr.flush()


def main(arguments: Sequence[str]) -> None:
    """`FOLDER STREAM RING KEEPING`: the ring as an open file, the last as JSON."""
    folder, stream, ring, keeping = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends when its server does
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    Writer(Path(folder), stream, Keeping.model_validate_json(keeping)).serve(0, RingBuffer(int(ring)))


if __name__ == "__main__":
    main(sys.argv[1:])
