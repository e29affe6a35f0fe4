"""Rows with the same text, told by digests: most rows have no copy, and nothing is kept of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.data.dedup.memory_map import copy_to_memory, release_mapped_pages
from luthier.data.dedup.shingles import sort_unique

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.data.dedup.keep import Ranks

_BLOCK = 1 << 16
_SORTED = 1 << 20
"""About so many keys are sorted at a time; of more rows, those of one part of all digests after the other."""
_UPPER, _LOWER = np.uint64(0xFFFFFFFF00000000), np.uint64(0xFFFFFFFF)


class ExactCopies(NamedTuple):
    """Rows that copy another one, in order, each with the one of all its copies whose rank is lowest."""

    indices: NDArray[np.int64]
    firsts: NDArray[np.int64]

    def first_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each of some rows the one that it copies; itself when there is none."""
        found = rows.copy()
        if len(self.indices):
            at = np.minimum(np.searchsorted(self.indices, rows), len(self.indices) - 1)
            hit = self.indices[at] == rows
            found[hit] = self.firsts[at[hit]]
        return found

    def members(self) -> NDArray[np.int64]:
        """Every row that has a copy, in order."""
        return sort_unique(np.concatenate([self.indices, self.firsts]))


def find_exact_copies(digests: NDArray[np.uint64], ranks: Ranks | None = None) -> ExactCopies:
    """Rows whose digest (rows, words) another row has, too; without ranks the first in order stays."""
    at = _shared(digests)
    own = copy_to_memory(digests, at)
    chosen = np.lexsort((at if ranks is None else ranks[at], *own.T))
    order, keys = at[chosen], own[chosen]
    new = np.concatenate([[True], (keys[1:] != keys[:-1]).any(axis=1)])[: len(keys)]
    firsts = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    by_place = np.argsort(order)
    by_place = by_place[(firsts != order)[by_place]]
    return ExactCopies(order[by_place], firsts[by_place])


def _shared(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places of rows, in order, half of whose first word comes more than once: nearly all of them are copies."""
    parts = -(-len(digests) // _SORTED)
    found = np.concatenate([np.zeros(0, np.int64), *(_shared_in(digests, part, parts) for part in range(parts))])
    found.sort()
    return found


def _shared_in(digests: NDArray[np.uint64], part: int, parts: int) -> NDArray[np.int64]:
    """Those whose half word lies in one part of so many; digests are spread evenly."""
    least, last = np.uint64((part << 32) // parts << 32), np.uint64(((part + 1 << 32) // parts << 32) - 1)
    mine: list[NDArray[np.uint64]] = []
    for start in range(0, len(digests), _BLOCK):
        keys = digests[start : start + _BLOCK, 0] & _UPPER
        keys |= np.arange(start, start + len(keys), dtype=np.uint64)
        mine.append(keys[(keys >= least) & (keys <= last)] if parts > 1 else keys)
        release_mapped_pages(digests)
    keys = np.concatenate(mine)
    mine.clear()
    keys.sort()
    same = np.zeros(len(keys) + 1, dtype=bool)
    for start in range(0, len(keys) - 1, _BLOCK):
        some = keys[start : start + _BLOCK + 1] & _UPPER
        same[start + 1 : start + len(some)] = some[1:] == some[:-1]
    return (keys[same[1:] | same[:-1]] & _LOWER).astype(np.int64)


def find_conflicting_rows(prompts: ExactCopies, wholes: ExactCopies) -> NDArray[np.int64]:
    """Rows, in order, whose prompt stands with more than one answer."""
    rows = prompts.members()
    heads, answers = np.unique(prompts.first_of(rows), return_inverse=True)[1], wholes.first_of(rows)
    low = np.full(len(rows), np.iinfo(np.int64).max)
    high = np.full(len(rows), -1)
    np.minimum.at(low, heads, answers)
    np.maximum.at(high, heads, answers)
    found: NDArray[np.int64] = rows[(low != high)[heads]]
    return found
