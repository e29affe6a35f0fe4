"""Shared memory through which ranks on one machine exchange tensors: the sender copies into its own, the receiver out
of it.

A mailbox is an anonymous file (`memfd_create`) that other processes of the same user open below `/proc`; it has no name
to clean up, and disappears with the last process that holds it. Two semaphores for each receiver signal that a tensor
was written, and that it was copied. A waiting rank polls whether all others are still alive.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_ALIGN, _BLOCK = 64, 128
"""Alignment of each tensor in bytes, and the bytes of each receiver's control block."""
_SEM_BYTES = 32
_SLICE_S = 0.05
"""Seconds that a rank waits before it checks whether the others are alive."""
_WRITTEN, _COPIED = 0, 32
"""Offsets of the two semaphores (`sem_t`) in a receiver's block; five numbers follow them."""
_NUMBERS = 64
_OFFSET, _CAPACITY, _SENT, _TAKEN, _LEFT = range(5)


class MailboxLost(Exception):
    """A rank ended, left its group, or did not respond in time; the number is its rank."""


class _Memory:
    """An in-memory file with a block for each rank, followed by tensors."""

    def __init__(self, file: int, size: int) -> None:
        self.file, self._begin = file, _BLOCK * size
        self._map = mmap.mmap(file, self._begin)
        self._head = torch.frombuffer(self._map, dtype=torch.uint8)
        self._numbers = self._head.view(torch.int64)
        self.data, self.capacity = torch.empty(0, dtype=torch.uint8), 0

    def semaphore(self, rank: int, which: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._head.data_ptr() + _BLOCK * rank + which)

    def number(self, rank: int, which: int) -> int:
        return int(self._numbers[(_BLOCK * rank + _NUMBERS) // 8 + which])

    def note(self, rank: int, which: int, value: int) -> None:
        self._numbers[(_BLOCK * rank + _NUMBERS) // 8 + which] = value

    def map(self, capacity: int) -> None:
        """Map `capacity` bytes of tensors."""
        if capacity != self.capacity:
            whole = torch.frombuffer(mmap.mmap(self.file, self._begin + capacity), dtype=torch.uint8)
            self.data, self.capacity = whole[self._begin :], capacity

    def grow(self, capacity: int) -> None:
        os.ftruncate(self.file, self._begin + capacity)
        self.map(capacity)


class Mailbox:
    """The shared memory of one rank of a group, and that of the other ranks on its machine."""

    def __init__(self, rank: int, size: int) -> None:
        """Create the memory; `OSError` or `AttributeError` where the system does not support it."""
        self._rank, self._size, self._libc = rank, size, _load_semaphores()
        file = os.memfd_create("luthier-ranks", os.MFD_CLOEXEC)
        os.ftruncate(file, _BLOCK * size)
        self._own = _Memory(file, size)
        for other in range(size):
            for which in (_WRITTEN, _COPIED):
                self._libc.sem_init(self._own.semaphore(other, which), 1, 0)
        self._unread = set[int]()
        """Ranks that have not yet said that they copied what was last sent to them."""
        self._others: dict[int, _Memory] = {}
        self._processes: dict[int, int] = {}
        """A descriptor of each other rank's process, which is ready to read when that has ended."""
        self.address = (os.getpid(), file)
        """How others find it: process and file."""

    def open(self, rank: int, address: Sequence[int]) -> None:
        """Open the mailbox of another rank; `OSError` where that is not possible."""
        process, file = address
        self._processes[rank] = os.pidfd_open(process)
        self._others[rank] = _Memory(os.open(f"/proc/{process}/fd/{file}", os.O_RDWR | os.O_CLOEXEC), self._size)

    def send(self, outgoing: Mapping[int, Tensor], wait_s: float) -> None:
        """Copy a tensor for each of some ranks into this rank's memory; one that goes to several of them is copied
        once.
        """
        for rank in sorted(self._unread) if outgoing else ():
            self._wait(self._own, rank, _COPIED, rank, wait_s)
            if self._own.number(rank, _TAKEN) != self._own.number(rank, _SENT):
                raise MailboxLost(rank)
            self._unread.discard(rank)
        offsets, end = dict[tuple[int, int], int](), 0
        for value in outgoing.values():
            if (key := (value.data_ptr(), value.nbytes)) not in offsets:
                offsets[key] = end
                end += -(-value.nbytes // _ALIGN) * _ALIGN
        if end > self._own.capacity:
            self._own.grow(end)
        copied = set[int]()
        for rank, value in outgoing.items():
            offset = offsets[value.data_ptr(), value.nbytes]
            if offset not in copied:
                self._own.data[offset : offset + value.nbytes].copy_(value.view(-1).view(torch.uint8))
                copied.add(offset)
            self._own.note(rank, _OFFSET, offset)
            self._own.note(rank, _CAPACITY, self._own.capacity)
            self._own.note(rank, _SENT, self._own.number(rank, _SENT) + 1)
            self._unread.add(rank)
            self._libc.sem_post(self._own.semaphore(rank, _WRITTEN))

    def receive(self, rank: int, value: Tensor, wait_s: float) -> None:
        """Fill a tensor with the one that a rank has sent."""
        memory = self._others[rank]
        self._wait(memory, self._rank, _WRITTEN, rank, wait_s)
        if memory.number(self._rank, _TAKEN) == memory.number(self._rank, _SENT):
            raise MailboxLost(rank)
        memory.map(memory.number(self._rank, _CAPACITY))
        begin = memory.number(self._rank, _OFFSET)
        value.view(-1).view(torch.uint8).copy_(memory.data[begin : begin + value.nbytes])
        memory.note(self._rank, _TAKEN, memory.number(self._rank, _TAKEN) + 1)
        self._libc.sem_post(memory.semaphore(self._rank, _COPIED))

    def _wait(self, memory: _Memory, block: int, which: int, rank: int, wait_s: float) -> None:
        """Wait for a rank's signal; `MailboxLost` when it, or any other rank, has ended."""
        deadline = time.monotonic() + wait_s
        while not self._libc.wait(memory.semaphore(block, which), _SLICE_S):
            ended = {file for file, _ in _poll(self._processes.values())}
            for other, file in self._processes.items():
                if file in ended or self._others[other].number(self._rank, _LEFT):
                    raise MailboxLost(other)
            if time.monotonic() > deadline:
                raise MailboxLost(rank)

    def close(self) -> None:
        """Leave: ranks that wait for this one are notified."""
        for other in range(self._size):
            self._own.note(other, _LEFT, 1)
        for rank, memory in self._others.items():
            self._libc.sem_post(memory.semaphore(self._rank, _COPIED))
            self._libc.sem_post(self._own.semaphore(rank, _WRITTEN))
            os.close(memory.file)
        for file in [*self._processes.values(), self._own.file]:
            os.close(file)
        self._others.clear()
        self._processes.clear()


def _poll(files: Iterable[int]) -> list[tuple[int, int]]:
    watch = select.poll()
    for file in files:
        watch.register(file, select.POLLIN)
    return watch.poll(0)


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Semaphores:
    """Semaphores of the C library, in shared memory."""

    def __init__(self, libc: Any) -> None:
        self.sem_init, self.sem_post = libc.sem_init, libc.sem_post
        self._timedwait = libc.sem_timedwait

    def wait(self, semaphore: ctypes.c_void_p, seconds: float) -> bool:
        """Return whether the semaphore was acquired within `seconds`."""
        until = time.time() + seconds
        limit = _Time(int(until), int(until % 1 * 1e9))
        return bool(self._timedwait(semaphore, ctypes.byref(limit)) == 0)


def _load_semaphores() -> _Semaphores:
    return _Semaphores(ctypes.CDLL(None))
