"""Recording from within a server: records go through a pipe to a process that writes them, at some microseconds each.

What lies in the pipe outlives the server: a kill loses nothing that was recorded before the answer's end was sent. When
the pipe is full, records wait in memory, within a bound; `settled` waits until none does. When the writing process
dies, another one takes its place and is sent again what the first had not told to be safe; each record is numbered, so
that none is written twice.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import json
import logging
import os
import secrets
import select
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import xxhash
from pydantic_core import PydanticSerializationError

from luthier.traffic.place import Keeping
from luthier.traffic.record import Feedback, Trace
from luthier.traffic.spool import make_folder

_PIPE_BYTES = 1 << 20
_LOOK_EVERY = 256
_LOOK_BYTES = 1 << 20
"""After so many records or bytes, what the writer has told is looked at: hardly a request pays for it."""
_FORGOTTEN = 2
"""So many safe records a record lets go: one that let all of them go at once would be late for it."""
_DEATHS = 3
"""A writer that dies so often within a minute is not started again."""
_LOG = logging.getLogger("luthier.traffic")


class _Sent(NamedTuple):
    number: int
    data: bytes


def is_sampled(id: str, share: float) -> bool:
    """Whether a trace is kept; its id decides."""
    return share >= 1 or xxhash.xxh3_64_intdigest(id.encode()) < share * 2**64


def _as_json(record: Trace | Feedback) -> tuple[bytes, bytes]:
    """What a record is called on its line, and the record."""
    name = b"trace" if isinstance(record, Trace) else b"feedback"
    try:
        return name, record.__pydantic_serializer__.to_json(record, exclude_unset=True)
    except PydanticSerializationError:  # what was asked for holds something that JSON cannot say
        return name, _plainly(record)


def _plainly(record: Trace | Feedback) -> bytes:
    """Half a character escaped, and without settings that are nested too deep."""
    try:
        return json.dumps(record.model_dump(exclude_unset=True), default=str).encode()
    except (PydanticSerializationError, ValueError, RecursionError):
        bare = record.model_dump(exclude_unset=True, exclude={"parameters", "messages", "answer"})
        return json.dumps(bare, default=str).encode()


class Recorder:
    """Takes traces and feedback; safe to call from any thread, and quick enough for an event loop."""

    def __init__(self, folder: Path, keeping: Keeping | None = None) -> None:
        self.folder = folder
        self.keeping = keeping or Keeping()
        self.recorded = self.left_out = self.lost = 0
        """How many records were taken, were not in the sample, and found no room."""
        make_folder(folder)
        self._lock = threading.Lock()
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._begin()
        atexit.register(self.close)

    def _begin(self) -> None:
        """A stream of this process's own, with nothing in it."""
        self._stream, self._number, self._safe = secrets.token_hex(6), 0, 0
        self._unsafe: deque[_Sent] = deque()
        self._unsafe_bytes = self._unseen_bytes = 0
        self._unsent: deque[bytes] = deque()
        self._closed = False
        self._process = os.getpid()
        self._sender: threading.Thread | None = None
        self._start()

    def _start(self) -> None:
        """Start a writer and connect to it."""
        source, self._to = os.pipe()
        self._told, told = os.pipe()
        with contextlib.suppress(OSError, AttributeError):  # not every system lets a pipe grow
            fcntl.fcntl(self._to, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(self._to, False)
        os.set_blocking(self._told, False)
        program = [sys.executable, "-P", "-m", "luthier.traffic.writer"]
        words = [str(self.folder), self._stream, self.keeping.model_dump_json()]
        self._writer = subprocess.Popen(  # noqa: S603  # this very program
            [*program, *words], stdin=source, stdout=told, start_new_session=True
        )
        os.close(source)
        os.close(told)

    def record(self, record: Trace | Feedback) -> None:
        """Hand a record over; never waits for anything."""
        if isinstance(record, Trace) and not is_sampled(record.id, self.keeping.sample):
            self.left_out += 1
            return
        name, text = _as_json(record)
        with self._lock:
            self._alive()
            if self._closed or not self._has_room(len(text)):
                self._lose()
                return
            self._number += 1
            data = b'{"n":%d,"%b":%b}\n' % (self._number, name, text)
            self._unsafe.append(_Sent(self._number, data))
            self._unsafe_bytes += len(data)
            self.recorded += 1
            self._send(data)
            self._unseen_bytes += len(data)
            if self._number % _LOOK_EVERY == 0 or self._unseen_bytes > _LOOK_BYTES:
                self._listen()
            self._forget(_FORGOTTEN)

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes may wait, too; what is safe is let go of first."""
        if self._unsafe_bytes + size > self.keeping.waiting_bytes:
            self._listen()
            self._forget(-1)
        return not self._closed and self._unsafe_bytes + size <= self.keeping.waiting_bytes

    def _alive(self) -> None:
        if self._process != os.getpid():  # a fork of the process that made this recorder
            os.close(self._to)
            os.close(self._told)
            self._begin()

    def _lose(self) -> None:
        self.lost += 1
        if self.lost & (self.lost - 1) == 0:  # the first, the second, the fourth, …
            _LOG.warning("%s: %d records found no room and are lost", self.folder, self.lost)

    def _send(self, data: bytes) -> None:
        """Into the pipe as far as it goes; the rest is sent on the side."""
        if not self._unsent:
            try:
                data = data[os.write(self._to, data) :]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                self._again()
                return
        if data:
            self._unsent.append(data)
            if self._sender is None or not self._sender.is_alive():
                self._sender = threading.Thread(target=self._send_rest, daemon=True)
                self._sender.start()

    def _send_rest(self) -> None:
        """Send what waits whenever the pipe has room."""
        while True:
            with self._lock:
                if not self._unsent:
                    self._sender = None
                    return
                pipe = self._to
            with contextlib.suppress(ValueError, OSError):  # closed meanwhile
                select.select([], [pipe], [], 0.1)
            with self._lock:
                self._send_some()

    def _send_some(self) -> None:
        while self._unsent:
            try:
                sent = os.write(self._to, self._unsent[0])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._again()
                return
            rest = self._unsent.popleft()[sent:]
            if rest:
                self._unsent.appendleft(rest)
        self._listen()

    def _listen(self) -> None:
        """Take note of what is safe; another writer takes the place of one that died."""
        self._unseen_bytes = 0
        try:
            told = os.read(self._told, 1 << 16)
        except BlockingIOError:
            return
        if not told:
            self._again()
            return
        self._note(told)

    def _note(self, told: bytes) -> None:
        whole = told[: told.rfind(b"\n")].rpartition(b"\n")[2]
        self._safe = max(self._safe, int(whole or 0))

    def _forget(self, most: int) -> None:
        """Let records go that are safe."""
        while most and self._unsafe and self._unsafe[0].number <= self._safe:
            self._unsafe_bytes -= len(self._unsafe.popleft().data)
            most -= 1

    def _again(self) -> None:
        """The writer died: what it told is still in its pipe; the rest is sent to a new one."""
        with contextlib.suppress(BlockingIOError):
            if told := os.read(self._told, 1 << 16):
                self._note(told)
                self._forget(-1)
        os.close(self._to)
        os.close(self._told)
        self._writer.wait()
        self._deaths.append(time.monotonic())
        if len(self._deaths) == _DEATHS and self._deaths[-1] - self._deaths[0] < 60:
            self._give_up()
            return
        _LOG.warning("%s: the process that writes traffic ended (%s); another one starts", self.folder, self._code)
        self._start()
        self._unsent = deque([b"".join(one.data for one in self._unsafe)] if self._unsafe else [])
        self._send_some()
        if self._unsent and (self._sender is None or not self._sender.is_alive()):
            self._sender = threading.Thread(target=self._send_rest, daemon=True)
            self._sender.start()

    @property
    def _code(self) -> int | None:
        return self._writer.returncode

    def _give_up(self) -> None:
        self._closed = True
        self.lost += len(self._unsafe)
        self._unsafe.clear()
        self._unsent.clear()
        _LOG.error("%s: the process that writes traffic dies again and again; nothing more is recorded", self.folder)

    @property
    def waiting_bytes(self) -> int:
        """How much was recorded that is not known to be written."""
        with self._lock:
            self._listen()
            self._forget(-1)
            return self._unsafe_bytes

    def is_settled(self) -> bool:
        """Whether all that was recorded outlives a kill of this process."""
        return not self._unsent

    async def settled(self, timeout_s: float = 5.0) -> bool:
        """Wait until it does; False when that takes longer."""
        end = time.monotonic() + timeout_s
        while self._unsent and time.monotonic() < end:
            await asyncio.sleep(0.001)
        return self.is_settled()

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until all that was recorded can be read in the folder; False when that takes longer."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            with self._lock:
                if not self._closed:
                    self._listen()
                self._forget(-1)
                if not self._unsafe:
                    return True
            time.sleep(0.002)
        return False

    def close(self) -> None:
        """Send what waits, and let the writer end."""
        if self._process != os.getpid() or self._closed:
            return
        atexit.unregister(self.close)
        self.flush()
        with self._lock:
            self._closed = True
            os.close(self._to)
            self._writer.wait()
            os.close(self._told)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
