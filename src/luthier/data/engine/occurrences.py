"""Count occurrences of keys and digests: recent ones in memory, the rest in sorted runs on disk."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections import Counter
from pathlib import Path

import numpy as np

from luthier.core.files import translate_write_errors
from luthier.data.dedup.shingles import digest8
from luthier.data.engine.external_sort import NUMBER, SortedRuns

_RUN = 1 << 15
"""Numbers or keys that are kept in memory until they make a run."""
_FILTER_BITS = 1 << 26
"""A Bloom filter of 8 MiB: says for most new numbers that they are new."""


class OccurrenceCounter:
    """How often each number has come; eight bytes a number on the disk."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is where the runs lie; None: where the system keeps such files."""
        self._filter = _Filter()
        self._fresh: Counter[int] = Counter()
        self._held = 0
        self._runs = SortedRuns(NUMBER, folder)

    def count(self, number: int) -> int:
        """How often the number has come before; from now on, once more."""
        before = 0 if self._filter.is_new(number) else self._fresh[number] + len(self._runs.of(number))
        self._fresh[number] += 1
        self._held += 1
        if self._held >= _RUN:
            numbers = np.array(array("Q", self._fresh), dtype=np.uint64)
            times = np.array(array("q", self._fresh.values()), dtype=np.int64)
            self._fresh.clear()
            self._held = 0
            self._runs.add(np.repeat(numbers, times).view(NUMBER))
        return before


class FirstValueByKey:
    """The value with which each key came first. Keys whose digests are equal are told apart by a look at the keys."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is where the runs and the keys lie; None: where the system keeps such files."""
        self._filter = _Filter()
        self._fresh: dict[str, int] = {}
        self._runs = SortedRuns(_KEY, folder)
        self._keys = _Texts(folder)

    def value(self, key: str, value: int) -> int | None:
        """The value with which the key came first; None where that is now, with this one."""
        number = digest8(key)
        if not self._filter.is_new(number) and (found := self._kept(key, number)) is not None:
            return found
        self._fresh[key] = value
        if len(self._fresh) >= _RUN:
            self._merge()
        return None

    def _kept(self, key: str, number: int) -> int | None:
        if (found := self._fresh.get(key)) is not None:
            return found
        for _, value, at, size in self._runs.of(number).tolist():
            if self._keys.text(at, size) == key:
                return int(value)
        return None

    def _merge(self) -> None:
        entries = [(digest8(key), value, *self._keys.add(key)) for key, value in self._fresh.items()]
        self._runs.add(np.array(entries, dtype=_KEY))
        self._fresh.clear()


_KEY = np.dtype([("number", "<u8"), ("value", "<i8"), ("at", "<i8"), ("size", "<i8")])


class _Texts:
    """Texts in a file, one behind the other."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._end = 0

    def add(self, text: str) -> tuple[int, int]:
        """Where the text stands from now on, and its bytes."""
        if not self._end:
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="luthier.keys.")  # noqa: SIM115 - closed with us
            weakref.finalize(self, self._file.close)
        written = text.encode("utf-8", "surrogatepass")
        with translate_write_errors(self._folder or tempfile.gettempdir()):
            self._file.write(written)
        self._end += len(written)
        return self._end - len(written), len(written)

    def text(self, at: int, size: int) -> str:
        """One text again."""
        self._file.flush()
        return os.pread(self._file.fileno(), size, at).decode("utf-8", "surrogatepass")


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
            bit_index = (number >> shift) % _FILTER_BITS
            byte, bit = bit_index >> 3, 1 << (bit_index & 7)
            if not self._bits[byte] & bit:
                self._bits[byte] |= bit
                new = True
        return new
