"""Records on the disk, found by a number: sorted runs, each at least twice as long as the next (a log of merges)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.files import translate_write_errors
from luthier.data.dedup.memory_map import release_mapped_pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Records = NDArray[Any]

NUMBER = np.dtype([("number", "<u8")])
"""A record that is nothing but its number."""
_BLOCK = 1 << 15
_FINDS_BETWEEN = 64
"""After so many searches, pages of the runs are let go."""


class SortedRuns:
    """Records whose field `number` may come again; memory does not grow with them."""

    def __init__(self, kind: np.dtype[Any], folder: Path | None) -> None:
        self._kind = kind
        self._folder = folder
        self._runs: list[Records] = []
        self._finds = 0

    def add(self, records: Records) -> None:
        """Keep some more, in any order."""
        run = self._written([records[np.argsort(records["number"], kind="stable")]])
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = self._written(_merged(self._runs.pop(), run))
        self._runs.append(run)

    def of(self, number: int) -> Records:
        """All records with a number, in any order."""
        self._finds += 1
        if self._finds % _FINDS_BETWEEN == 0:
            for run in self._runs:
                release_mapped_pages(run)
        return np.concatenate([np.zeros(0, dtype=self._kind), *(_equal(run, np.uint64(number)) for run in self._runs)])

    def _written(self, parts: Iterable[Records]) -> Records:
        with tempfile.TemporaryFile(dir=self._folder, prefix="luthier.run.") as file:
            with translate_write_errors(self._folder or tempfile.gettempdir()):
                for part in parts:
                    file.write(part.data)
                file.flush()
            return np.memmap(file, dtype=self._kind, mode="r").view(np.ndarray)


def _equal(run: Records, number: np.uint64) -> Records:
    numbers = run["number"]
    start = int(np.searchsorted(numbers, number))
    if start == len(run) or numbers[start] != number:
        return run[:0]
    return run[start : int(np.searchsorted(numbers, number, "right"))]


def _merged(one: Records, two: Records) -> Iterator[Records]:
    """Two runs as one, in pieces."""
    at, other = 0, 0
    while at < len(one) and other < len(two):
        some, more = one[at : at + _BLOCK], two[other : other + _BLOCK]
        last = min(some["number"][-1], more["number"][-1])
        some = some[: np.searchsorted(some["number"], last, "right")]
        more = more[: np.searchsorted(more["number"], last, "right")]
        piece = np.concatenate([some, more])
        yield piece[np.argsort(piece["number"], kind="stable")]
        at, other = at + len(some), other + len(more)
        release_mapped_pages(one)
        release_mapped_pages(two)
    for rest, start in ((one, at), (two, other)):
        for begin in range(start, len(rest), _BLOCK):
            yield rest[begin : begin + _BLOCK]
            release_mapped_pages(rest)
