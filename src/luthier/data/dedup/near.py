"""An index of near duplicates: which rows are nearly the same as a given one, with verified similarity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.data.dedup.minhash import PERMUTATIONS, band_keys, choose_bands, compute_minhash_signatures, sort_band_keys
from luthier.data.dedup.shingles import normalize_for_comparison
from luthier.data.ops.near_dedup import NearDedup
from luthier.data.row import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 1024
_MOST_BANDS = 64
"""Few bands and narrow ones: an index is kept in memory, and a stranger more costs little."""
_BELOW = np.uint64(0xFFFFFFFF)


class NearDuplicate(NamedTuple):
    """A row that is nearly the same, and how nearly."""

    row_index: int
    similarity: float


class NearDuplicateIndex:
    """Rows that are searched for near copies; `row` fetches one by its place.

    No pair at the threshold is overlooked more often than `near_dedup` would (once in a million), and none is named
    whose true Jaccard similarity lies below it.
    """

    def __init__(
        self, threshold: float, rows: Iterator[Row], row: Callable[[int], Row], of: str = "prompt", **measure: str
    ) -> None:
        """`measure` holds more settings of `near_dedup`: how similarity is measured."""
        self._operator = NearDedup.model_validate({"threshold": threshold, "of": of, **measure})
        self._bands = choose_bands(self._operator.proposing, _MOST_BANDS)
        self._shown = lru_cache(maxsize=4096)(lambda index: self._operator.shown(row(index)))
        found: list[NDArray[np.uint8]] = []
        while some := list(islice(rows, _AT_ONCE)):
            found.append(self._signatures_of(some))
        self._signatures = np.concatenate(found) if found else np.zeros((0, PERMUTATIONS), np.uint8)
        self._keys = [sort_band_keys(self._signatures[:, band].T) for band in self._bands.columns]

    def nearest(self, row: Row) -> NearDuplicate | None:
        """The most similar row from the threshold on, the first of equals; None when there is none."""
        return self.nearest_of([row])[0]

    def nearest_of(self, rows: Sequence[Row]) -> list[NearDuplicate | None]:
        """The same for several rows."""
        return [self._best(row, others) for row, others in zip(rows, self._proposals(rows), strict=True)]

    def _best(self, row: Row, others: Sequence[int]) -> NearDuplicate | None:
        best: NearDuplicate | None = None
        own = self._operator.shown(row) if others else None
        for index in others:
            assert own is not None
            similarity = self._operator.similarity(self._shown(index), own)
            if similarity >= self._operator.threshold and (best is None or similarity > best.similarity):
                best = NearDuplicate(index, round(similarity, 6))
        return best

    def _proposals(self, rows: Sequence[Row]) -> list[list[int]]:
        """For each row, the places of those that share a band and enough columns, in order."""
        lines = self._signatures_of(rows)
        found: list[set[int]] = [set() for _ in rows]
        for band, keys in zip(self._bands.columns, self._keys, strict=True):
            query_keys = band_keys(lines[:, band].T)
            starts, ends = np.searchsorted(keys, query_keys), np.searchsorted(keys, query_keys | _BELOW, "right")
            for at in np.flatnonzero(ends > starts).tolist():
                found[at].update((keys[starts[at] : ends[at]] & _BELOW).tolist())
        return [self._alike(line, sorted(indices)) for line, indices in zip(lines, found, strict=True)]

    def _alike(self, line: NDArray[np.uint8], indices: list[int]) -> list[int]:
        if not indices:
            return []
        same = (self._signatures[indices] == line).sum(axis=1)
        return [index for index, count in zip(indices, same.tolist(), strict=True) if count >= self._bands.at_least]

    def _signatures_of(self, rows: Sequence[Row]) -> NDArray[np.uint8]:
        return compute_minhash_signatures(
            self._operator.pieces([normalize_for_comparison(self._operator.text(row)) for row in rows], rows)
        )


def similarity(one: Row, two: Row, of: str = "prompt") -> float:
    """The Jaccard similarity of two rows' texts, as `near_dedup` measures it."""
    operator = NearDedup.model_validate({"of": of})
    return operator.similarity(operator.shown(one), operator.shown(two))
