"""Which of many 64-bit numbers have come before, in a few bytes a number instead of a dictionary's hundred."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RUN = 1 << 15
"""Numbers that are kept unsorted until they are merged."""
_FILTER_BITS = 1 << 26
"""A Bloom filter of 8 MiB: says for most new numbers that they are new."""


class Seen:
    """How often numbers have come, in sorted runs, each at least twice as long as the next (a log-structured merge)."""

    def __init__(self) -> None:
        self._filter = _Filter()
        self._fresh: set[int] = set()
        self._runs: list[NDArray[np.uint64]] = []
        self._again: dict[int, int] = {}
        """How often a number has come, when more than once."""

    def count(self, number: int) -> int:
        """How often the number has come before; from now on, once more."""
        if self._filter.is_new(number) or not self._is_kept(number):
            self._fresh.add(number)
            if len(self._fresh) >= _RUN:
                self._merge()
            return 0
        before = self._again.get(number, 1)
        self._again[number] = before + 1
        return before

    def _is_kept(self, number: int) -> bool:
        return number in self._fresh or any(_place(run, number) is not None for run in self._runs)

    def _merge(self) -> None:
        run = np.array(array("Q", self._fresh), dtype=np.uint64)
        self._fresh.clear()
        run.sort()
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort()
        self._runs.append(run)


class First:
    """The value with which each number came first: the same with sixteen bytes a number."""

    def __init__(self) -> None:
        self._filter = _Filter()
        self._fresh: dict[int, int] = {}
        self._runs: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []

    def value(self, number: int, value: int) -> int | None:
        """The value with which the number came first; None where that is now, with this one."""
        if not self._filter.is_new(number) and (found := self._kept(number)) is not None:
            return found
        self._fresh[number] = value
        if len(self._fresh) >= _RUN:
            self._merge()
        return None

    def _kept(self, number: int) -> int | None:
        if number in self._fresh:
            return self._fresh[number]
        for run, values in self._runs:
            if (place := _place(run, number)) is not None:
                return int(values[place])
        return None

    def _merge(self) -> None:
        run = np.array(array("Q", self._fresh), dtype=np.uint64)
        values = np.array(array("q", self._fresh.values()), dtype=np.int64)
        self._fresh.clear()
        while self._runs and len(self._runs[-1][0]) < 2 * len(run):
            before, known = self._runs.pop()
            run, values = np.concatenate([before, run]), np.concatenate([known, values])
        order = np.argsort(run)
        self._runs.append((run[order], values[order]))


class _Filter:
    """A Bloom filter with two places a number."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def is_new(self, number: int) -> bool:
        """Whether the number surely has not come before; from now on, it has."""
        if not self._bits:
            self._bits = bytearray(_FILTER_BITS >> 3)
        new = False
        for shift in (0, 26):
            place = (number >> shift) % _FILTER_BITS
            byte, bit = place >> 3, 1 << (place & 7)
            if not self._bits[byte] & bit:
                self._bits[byte] |= bit
                new = True
        return new


def _place(run: NDArray[np.uint64], number: int) -> int | None:
    """Where a number stands in a sorted run."""
    place = int(np.searchsorted(run, np.uint64(number)))
    return place if place < len(run) and run[place] == number else None
