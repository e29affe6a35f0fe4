"""Recording from within a server: records go through shared memory to a process that writes them, at some microseconds.

What lies in that memory outlives the server: a kill loses nothing that was recorded before the answer's end was sent.
When the writing process dies, another one takes its place and goes on with what the first had not made safe; where a
record stands is its number, so that none is written twice.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from functools import partial
from pathlib import Path

import xxhash
from orjson import Fragment, dumps

from luthier.traffic.handed import LINE, Begun, End, Record, begun, ended, inside, line
from luthier.traffic.place import Keeping
from luthier.traffic.record import Trace
from luthier.traffic.ring_buffer import RingBuffer
from luthier.traffic.spool import make_folder

_DEATHS = 3
"""A writer that dies so often within a minute is not started again."""
_FRUGAL = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2", "POLARS_MAX_THREADS": "1"}
"""A writer has small tables at a time: memory goes back to the system, and no thread waits for each processor."""
_LOG = logging.getLogger("luthier.traffic")


def is_sampled(id: str, share: float) -> bool:
    """Whether a trace is kept; its id decides."""
    return share >= 1 or xxhash.xxh3_64_intdigest(id.encode()) < share * 2**64


class Recorder:
    """Takes traces and feedback; safe to call from any thread, and quick enough for an event loop."""

    def __init__(self, folder: Path, keeping: Keeping | None = None) -> None:
        self.folder = folder
        self.keeping = keeping or Keeping()
        self.recorded = self.left_out = self.lost = 0
        """How many records were taken, were not in the sample, and found no room."""
        make_folder(folder)
        self.keeping.remember(folder)
        self._share = self.keeping.sample
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._begin()
        os.register_at_fork(after_in_child=partial(_leave, weakref.ref(self)))
        atexit.register(self.close)

    def _begin(self) -> None:
        """A stream of this process's own, with nothing in it."""
        self._stream, self._process = secrets.token_hex(6), os.getpid()
        self._ring = RingBuffer.new(self.keeping.waiting_bytes)
        self._lock, self._closed = threading.Lock(), False
        self._changed: threading.Event | None = None
        self._start()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _start(self) -> None:
        """Start a writer. The pipe's end tells it that nobody puts in any more; what is sent, that somebody waits."""
        source, self._to = os.pipe()
        os.set_blocking(self._to, False)
        words = [str(self.folder), self._stream, str(self._ring.file), self.keeping.model_dump_json()]
        self._writer = subprocess.Popen(  # noqa: S603  # this very program
            [sys.executable, "-P", "-m", "luthier.traffic.writer", *words],
            stdin=source,
            stdout=subprocess.DEVNULL,
            pass_fds=(self._ring.file,),
            env={**_FRUGAL, **os.environ},
            start_new_session=True,
        )
        os.close(source)

    def change(self, keeping: Keeping) -> None:
        """Keep what is recorded from now on in another way; returns when a writer that does so has begun.

        What was recorded before is written as it would have been.
        """
        if keeping == self.keeping:
            return
        keeping.remember(self.folder)
        begun = threading.Event()
        with self._lock:
            if self._closed:
                return
            self.keeping, self._share, self._changed = keeping, keeping.sample, begun
            os.close(self._to)
            self._to = os.open(os.devnull, os.O_WRONLY)  # until there is a writer to call again
        begun.wait()

    def ready(self, told: Begun) -> Fragment | None:
        """The beginning of a gateway's request, made while the model is at work: `end` then has less to do while a
        client waits. None where it is not in the sample."""
        return begun(told) if self._share >= 1 or is_sampled(told["id"], self._share) else None

    def end(self, ready: Fragment | None, end: End) -> None:
        """Hand a gateway's request over, whose beginning was made ready; never waits for anything."""
        if ready is None:
            self.left_out += 1
            return
        try:
            line = dumps((ready, end), inside, LINE)
        except TypeError:
            line = ended(ready, end)
        with self._lock:
            if self._ring.put(line):
                self.recorded += 1
            else:
                self._put_or_lose(line)

    def record(self, record: Record) -> None:
        """Hand a record over; never waits for anything."""
        if isinstance(record, Trace) and not is_sampled(record.id, self._share):
            self.left_out += 1
            return
        made = line(record)
        with self._lock:
            if self._ring.put(made):
                self.recorded += 1
            else:
                self._put_or_lose(made)

    def _put_or_lose(self, line: bytes) -> None:
        if self._is_forked() and self._ring.put(line):
            self.recorded += 1
            return
        self.lost += 1
        if self.lost & (self.lost - 1) == 0:  # the first, the second, the fourth, …
            _LOG.warning("%s: %d records found no room and are lost", self.folder, self.lost)

    def _is_forked(self) -> bool:
        """Whether this process is a fork of the one that made the recorder; it begins a stream of its own."""
        if self._process == os.getpid():
            return False
        self._begin()
        return True

    def _watch(self) -> None:
        """Another writer takes the place of one that died; what the ring holds is for that one."""
        while True:
            ended = self._writer.wait()
            with self._lock:
                if self._closed:
                    if self._changed is not None:
                        self._changed.set()
                    return
                os.close(self._to)
                if self._changed is not None:
                    self._start()
                    self._changed.set()
                    self._changed = None
                    continue
                self._deaths.append(time.monotonic())
                if len(self._deaths) == _DEATHS and self._deaths[-1] - self._deaths[0] < 60:
                    self._give_up()
                    return
                _LOG.warning("%s: the process that writes traffic ended (%s); another one starts", self.folder, ended)
                self._start()

    def _give_up(self) -> None:
        self._closed = True
        self.lost += len(self._ring.take(self.keeping.waiting_bytes))
        self._ring.close()
        _LOG.error("%s: the process that writes traffic dies again and again; nothing more is recorded", self.folder)

    @property
    def waiting_bytes(self) -> int:
        """How much was recorded that is not known to be written."""
        with self._lock:
            return self._ring.waiting_bytes

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until all that was recorded can be read in the folder; False when that takes longer."""
        end = time.monotonic() + timeout_s
        self._call()
        while (waiting := self.waiting_bytes) and time.monotonic() < end:
            time.sleep(0.002)
        return not waiting

    def _call(self) -> None:
        """Let the writer look at once, unless it is dead, or was called so often that it need not be told."""
        with self._lock, contextlib.suppress(OSError):
            os.write(self._to, b"!")

    def close(self) -> None:
        """Let the writer write what waits, and end."""
        if self._process != os.getpid() or self._closed:
            return
        atexit.unregister(self.close)
        self.flush()
        with self._lock:
            self._closed = True
            os.close(self._to)
        self._watching.join()
        self._ring.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _leave(recorder: weakref.ref[Recorder]) -> None:
    """In a fork: what the recorder holds belongs to the process that made it."""
    found = recorder()
    if found is not None and not found._closed:
        os.close(found._to)
        found._ring.close()
        found._lock = threading.Lock()
