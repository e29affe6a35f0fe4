"""A ring buffer in memory that two processes share: one puts records in, the other takes them out, and neither waits.

Putting copies some bytes and asks the system for nothing, so that a request hardly feels it. What was put in outlives
the process that did it, as long as the other one lives. The memory has no name and no file, so that nothing of it
comes to a disk.

    0: bytes put in so far    8: bytes let go of so far    16, 24: from where to where it was gone on when it was empty
    64: the ring, of frames: a length, and the record

All counts only grow, and each has one process that writes it: that which puts in, and for the second the other one. A
negative length says how much to skip.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from typing import NamedTuple

_HEAD, _TAIL, _FROM, _TO, _BEGIN = 0, 1, 2, 3, 64
_LENGTH = struct.Struct("<q")
_packed = _LENGTH.pack
_WARM = 1 << 18
"""Beyond so many bytes an empty ring is gone on with at its beginning: memory that was used costs nothing new."""


class Placed(NamedTuple):
    """A record, and where it ends: counted from the ring's beginning over all its laps, so that no other ends there."""

    end: int
    record: bytes


class RingBuffer:
    """One end of it; both have the same open file of memory."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._memory = mmap.mmap(file, 0)
        self._counts = memoryview(self._memory)[:32].cast("Q")
        self._size = len(self._memory) - _BEGIN
        self._fence = threading.Lock()
        """A processor may reorder what it writes and reads; taking a lock and letting it go holds it to an order."""
        self._head = self._counts[_HEAD]
        self._free = 0
        """Up to here a record may be put in without a look at what was let go of."""

    @classmethod
    def new(cls, size: int) -> RingBuffer:
        """A ring of (a little more than) so many bytes, with its first part at hand."""
        file = _shared_memory()
        os.ftruncate(file, _BEGIN + _whole(size))
        made = cls(file)
        warm = min(_WARM, made._size)
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

    def put(self, record: bytes) -> bool:
        """Put a record in; False when there is no room for it. Only one thread at a time.

        What is not longer than the ring has room when nothing waits. What follows a request's end finds caches cold, so
        that each line here counts.
        """
        begin = self._head
        end = begin + (len(record) + 15 & -8)
        if end > self._free:
            room = self._room(end - begin)
            if room is None:
                return False
            begin, end = room, room + end - begin
        place = begin % self._size + _BEGIN
        self._memory[place : place + 8 + len(record)] = _packed(len(record)) + record
        with self._fence:
            self._head = end
        self._counts[_HEAD] = end
        return True

    def _room(self, size: int) -> int | None:
        """Where a frame of this size may begin, after a look at what was let go of."""
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
            self._memory[_BEGIN + place : _BEGIN + place + 8] = _packed(self._head - begin)
        lap = begin - begin % self._size
        warm = max(begin + size, lap + _WARM)
        self._free = min(lap + self._size, tail + self._size, warm)
        return begin

    def take(self, most: int = 1 << 20) -> list[Placed]:
        """The oldest records, about so many bytes of them; they stay until they are let go of."""
        found, head = list[Placed](), self._counts[_HEAD]
        with self._fence:
            place = self._tail()
        while place < head and most > 0:
            begin = _BEGIN + place % self._size + _LENGTH.size
            (length,) = _LENGTH.unpack(self._memory[begin - _LENGTH.size : begin])
            place += -length if length < 0 else _LENGTH.size + _whole(length)
            if length >= 0:
                found.append(Placed(place, self._memory[begin : begin + length]))
                most -= length
        return found

    def let_go(self, end: int) -> None:
        """Make room: what ends here, or before, is safe elsewhere."""
        self._counts[_TAIL] = end

    def close(self) -> None:
        """Leave this end: nothing more has room."""
        self._size, self._free = 0, -1
        self._counts.release()
        self._memory.close()
        os.close(self.file)


def _whole(size: int) -> int:
    """Frames begin at multiples of 8, so that a length is never parted."""
    return (size + 7) // 8 * 8


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
