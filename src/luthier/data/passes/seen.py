"""How often each of many 64-bit numbers has come before, in a few bytes a number instead of a dictionary's hundred."""

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
    """Numbers in sorted runs, each at least twice as long as the next (a log-structured merge)."""

    def __init__(self) -> None:
        self._filter = bytearray()
        self._fresh: set[int] = set()
        self._runs: list[NDArray[np.uint64]] = []
        self._again: dict[int, int] = {}
        """How often a number has come, when more than once."""

    def count(self, number: int) -> int:
        """How often the number has come before; from now on, once more."""
        if self._is_new(number):
            self._fresh.add(number)
            if len(self._fresh) >= _RUN:
                self._merge()
            return 0
        before = self._again.get(number, 1)
        self._again[number] = before + 1
        return before

    def _is_new(self, number: int) -> bool:
        """Look into the filter first (and enter the number there), then into the runs."""
        if not self._filter:
            self._filter = bytearray(_FILTER_BITS >> 3)
        new = False
        for shift in (0, 26):
            place = (number >> shift) % _FILTER_BITS
            byte, bit = place >> 3, 1 << (place & 7)
            if not self._filter[byte] & bit:
                self._filter[byte] |= bit
                new = True
        return new or not self._is_kept(number)

    def _is_kept(self, number: int) -> bool:
        if number in self._fresh:
            return True
        wanted = np.uint64(number)
        places = ((run, int(np.searchsorted(run, wanted))) for run in self._runs)
        return any(place < len(run) and run[place] == wanted for run, place in places)

    def _merge(self) -> None:
        run = np.sort(np.frombuffer(array("Q", self._fresh), dtype=np.uint64))
        self._fresh.clear()
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)
