"""A ring buffer in memory that two processes share: one puts lines in, the other takes them out, and neither waits.

Putting copies some bytes and asks the system for nothing, so that a request hardly feels it. What was put in outlives
the process that did it, as long as the other one lives. The memory has no name and no file, so that nothing of it
comes to a disk.

    0: bytes put in so far    8: bytes let go of so far    16, 24: from where to where it was gone on when it was empty
    64: the ring, of lines: each ends in its line feed, has no other, and no zero

All counts only grow, and each has one process that writes it: that which puts in, and for the second the other one. A
zero where a line would begin says that the rest of this lap is skipped.
"""

from __future__ import annotations

import mmap
import os
import platform
import threading
from typing import NamedTuple

_HEAD, _TAIL, _FROM, _TO, _BEGIN = 0, 1, 2, 3, 64
_REORDERS = platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686")
"""Whether another processor may see what is written in another order; those that are named here keep to it."""
_WARM = 1 << 22
"""Beyond so many bytes an empty ring is gone on with at its beginning: a page of memory that was never touched costs a
request more than all else here."""
_BEYOND = 1 << 18
"""So much comes on top, usually, before the ring is found empty."""


class Placed(NamedTuple):
    """A line, and where it ends: counted from the ring's beginning over all its laps, so that no other ends there."""

    end: int
    line: bytes
    """Without its line feed."""


class RingBuffer:
    """One end of it; both have the same open file of memory."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._memory = mmap.mmap(file, 0)
        self._counts = memoryview(self._memory)[:32].cast("Q")
        self._size = len(self._memory) - _BEGIN
        self._fence = threading.Lock()
        """Taking a lock and letting it go holds a processor to the order of what it writes and reads."""
        self._head = self._counts[_HEAD]
        self._free = 0
        """Up to here a line may be put in without a look at what was let go of."""

    @classmethod
    def new(cls, size: int) -> RingBuffer:
        """A ring of so many bytes, with its first part at hand."""
        file = _shared_memory()
        os.ftruncate(file, _BEGIN + size)
        made = cls(file)
        warm = min(_WARM + _BEYOND, made._size)
        made._memory[_BEGIN : _BEGIN + warm] = bytes(warm)
        return made

    @property
    def waiting_bytes(self) -> int:
        """How much was put in that is not let go of."""
        return self._head - self._tail() if self._size else 0

    def _tail(self) -> int:
        """Where what is not let go of begins."""
        tail = self._counts[_TAIL]
        return self._counts[_TO] if tail == self._counts[_FROM] else tail

    def put(self, line: bytes) -> bool:
        """Put a line in, its line feed with it; False when there is no room for it. Only one thread at a time.

        What is not longer than the ring has room when nothing waits. What follows a request's end finds caches cold, so
        that each step here counts.
        """
        size = len(line)
        end = self._head + size
        if end > self._free:
            begin = self._room(size)
            if begin is None:
                return False
            end = begin + size
        place = (end - size) % self._size + _BEGIN
        self._memory[place : place + size] = line
        if _REORDERS:
            self._settle()
        self._head = self._counts[_HEAD] = end
        return True

    def _settle(self) -> None:
        """What was written is there for everybody before anything that is written from now on."""
        with self._fence:
            pass

    def _room(self, size: int) -> int | None:
        """Where a line of this size may begin, after a look at what was let go of."""
        if size > self._size:
            return None
        begin, tail = self._head, self._tail()
        place = begin % self._size
        on = begin + self._size - place
        if begin == tail and place and place + size > _WARM:
            self._counts[_TO], self._counts[_FROM] = on, self._counts[_TAIL]
            begin = tail = on
        elif place + size > self._size:
            begin = on
        if begin + size - tail > self._size:
            return None
        if begin > tail and begin == on:
            self._memory[_BEGIN + place] = 0
        lap = begin - begin % self._size
        self._free = min(lap + self._size, tail + self._size, max(begin + size, lap + _WARM))
        return begin

    def take(self, most: int = 1 << 20) -> list[Placed]:
        """The oldest lines, about so many bytes of them; they stay until they are let go of."""
        found, head = list[Placed](), self._counts[_HEAD]
        with self._fence:
            place = self._tail()
        while place < head and most > 0:
            left = self._size - place % self._size
            lines = self._lines(place, min(head - place, left, most)) or self._lines(place, min(head - place, left))
            for line in lines:
                place += len(line) + 1
                found.append(Placed(place, line))
                most -= len(line)
            if not lines:
                place += left
        return found

    def _lines(self, place: int, size: int) -> list[bytes]:
        """Those that are whole within so many bytes; none where the rest of a lap is skipped."""
        begin = _BEGIN + place % self._size
        data = self._memory[begin : begin + size]
        skipped = data.find(b"\0")
        return data[: None if skipped < 0 else skipped].split(b"\n")[:-1]

    def let_go(self, end: int) -> None:
        """Make room: what ends here, or before, is safe elsewhere."""
        self._counts[_TAIL] = end

    def close(self) -> None:
        """Leave this end: nothing more has room."""
        self._size, self._free = 0, -1
        self._counts.release()
        self._memory.close()
        os.close(self.file)


def _shared_memory() -> int:
    """Memory without a name, as an open file."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("luthier-traffic")
    from multiprocessing.shared_memory import SharedMemory

    named = SharedMemory(create=True, size=1)
    named.unlink()
    file = os.dup(named._fd)  # type: ignore[attr-defined]  # it is to be had by no other way
    named.close()
    return file
