"""Detect contamination: a text that repeats held-out text, by long n-grams or as a verified near copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.data.dedup.near import NearDuplicateIndex
from luthier.data.dedup.shingles import digest8, split_comparison_words
from luthier.data.row import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUN_WORDS = 13
"""Words of a run that no two texts share by chance (Brown et al. 2020, GPT-3, appendix C)."""
LEAST_WORDS = 8
"""A shorter text is one run from so many words on (the same); below it, only a near copy counts."""


class ContaminationMatch(NamedTuple):
    """The unseen text that a row repeats."""

    name: str
    """Where it stands, or its id."""
    similarity: float
    how: str
    """`near copy`, or `runs of 13 words`."""


class ContaminationIndex:
    """Texts that must stay unseen, ready to be compared with rows."""

    def __init__(
        self, rows: Iterable[tuple[str, Row]], fetch: Callable[[int], Row], *, similarity: float, overlap: float
    ) -> None:
        """`rows` come with their names; `fetch` gives one again by its place."""
        self._names: list[str] = []
        self._lengths: list[int] = []
        self._overlap = overlap
        self._runs = _Runs()
        taken = self._taken(rows)
        self._index = NearDuplicateIndex(similarity, taken, fetch, "prompt", measure="edit", unit="word")
        self._runs.close()

    def _taken(self, rows: Iterable[tuple[str, Row]]) -> Iterator[Row]:
        for name, row in rows:
            found = split_comparison_words(row.prompt or row.answer)
            self._runs.add(found)
            self._names.append(name)
            self._lengths.append(len(found))
            yield row

    def __len__(self) -> int:
        return len(self._names)

    def hits(self, rows: Sequence[Row]) -> list[ContaminationMatch | None]:
        """For each row the unseen text that it repeats most; a near copy counts before shared runs."""
        near = self._index.nearest_of(rows)
        matches: list[ContaminationMatch | None] = []
        for row, twin in zip(rows, near, strict=True):
            if twin is not None:
                matches.append(ContaminationMatch(self._names[twin.row_index], twin.similarity, "near copy"))
            else:
                matches.append(self._by_runs(row))
        return matches

    def _by_runs(self, row: Row) -> ContaminationMatch | None:
        """The text of whose words the largest share stands in runs that the row holds, too."""
        covered = self._runs.covered(split_comparison_words(f"{row.prompt}\n{row.answer}"))
        shares = [(count / self._lengths[index], -index) for index, count in covered.items()]
        share, index = max(shares, default=(0.0, 0))
        if share <= 0 or share < self._overlap:
            return None
        return ContaminationMatch(self._names[-index], round(share, 6), f"runs of {RUN_WORDS} words")


class _Runs:
    """All runs of words of the unseen texts, by their hashes."""

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._places: list[tuple[int, int, int]] = []
        self._texts = 0
        self._short: set[int] = set()

    def add(self, text: Sequence[str]) -> None:
        """Add the words of the next text."""
        size = min(RUN_WORDS, len(text))
        if size >= LEAST_WORDS:
            self._short.add(size)
            for at, run in enumerate(_runs(text, size)):
                self._hashes.append(run)
                self._places.append((self._texts, at, size))
        self._texts += 1

    def close(self) -> None:
        """Sort them, once all are there."""
        hashes = np.array(self._hashes, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        self._sorted: NDArray[np.uint64] = hashes[order]
        self._at = np.array(self._places, dtype=np.int64).reshape(-1, 3)[order]
        self._hashes.clear()
        self._places.clear()

    def covered(self, text: Sequence[str]) -> dict[int, int]:
        """How many words of each unseen text stand in runs that these words hold."""
        found: dict[int, list[tuple[int, int]]] = {}
        for size in sorted(self._short):
            runs = np.unique(np.array(_runs(text, size), dtype=np.uint64))
            starts, ends = np.searchsorted(self._sorted, runs), np.searchsorted(self._sorted, runs, "right")
            for which in np.flatnonzero(ends > starts).tolist():
                for index, at, length in self._at[starts[which] : ends[which]].tolist():
                    found.setdefault(index, []).append((at, length))
        return {index: _union(spans) for index, spans in found.items()}


def _runs(text: Sequence[str], size: int) -> list[int]:
    return [digest8(" ".join(text[at : at + size])) for at in range(len(text) - size + 1)]


def _union(spans: list[tuple[int, int]]) -> int:
    """How many places the spans (start, length) cover together."""
    covered, end = 0, 0
    for start, length in sorted(spans):
        covered += max(0, start + length - max(start, end))
        end = max(end, start + length)
    return covered
