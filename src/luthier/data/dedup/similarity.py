"""Twins among points: all pairs are compared, block by block, and those near the threshold once more in double.

A product of matrices says which pairs are surely twins or surely none; what lies within `MARGIN` of the threshold is
decided by a sum in double precision that is the same whichever row comes first. So the answer depends neither on blocks
nor on luck, and memory on the blocks alone: points may lie on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.data.dedup.duplicates import Duplicate
from luthier.models.embeddings.base import paired_cosine_similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.data.dedup.keep import Ranks
    from luthier.models.embeddings.base import Points

    Places = NDArray[np.int64]

MARGIN = 1e-4
"""Far more than float32 can err in a cosine of a few thousand numbers."""
ROWS, COLUMNS = 1024, 4096
"""Rows that are compared together, and with how many at a time."""
_DIGITS = 6
_PAIRS = 8192
"""Pairs that are computed in double at a time."""
_NONE = -1


class CosineDuplicateFinder:
    """Points in the order in which their rows may stay; all places below are places in that order."""

    def __init__(
        self,
        points: Points,
        ranks: Ranks,
        threshold: float,
        tick: Callable[[int, int], None] = lambda done, total: None,
        kinds: NDArray[np.uint64] | None = None,
    ) -> None:
        """`tick` is told of how much of the work is done and how much there is: in rows, as if each took as long.

        Where rows are of several `kinds`, only those of one kind can be twins.
        """
        self._kinds = kinds
        self._points = points
        self._tick = tick
        self._order = np.argsort(ranks[:], kind="stable")
        self._threshold = threshold

    def kept_twins(self) -> dict[int, Duplicate]:
        """Each row that goes, with the soonest row that stays and is its twin: no two rows that stay are twins."""
        kept = np.zeros(0, dtype=np.int64)
        goes, stays = [], []
        for start in range(0, len(self._order), ROWS):
            block = np.arange(start, min(start + ROWS, len(self._order)))
            twins = self._first_twins(block, kept)
            left = block[twins == _NONE]
            twins[twins == _NONE] = self._among(left)
            goes.append(block[twins != _NONE])
            stays.append(twins[twins != _NONE])
            kept = np.concatenate([kept, block[twins == _NONE]])
            self._report_progress(len(block) + start)
        return self._named(goes, stays, stays)

    def clusters(self) -> dict[int, Duplicate]:
        """Each row of a cluster but the one that stays soonest, with that one and the similarity that joined it."""
        heads = np.arange(len(self._order))
        joined: dict[int, tuple[int, int]] = {}
        for index, twins in self._earlier_twins():
            own = heads[twins]
            head = int(own.min())
            heads[index] = head
            joined[index] = (index, int(twins[0]))
            for other in np.unique(own[own != head]).tolist():
                joined[other] = (index, int(twins[own == other][0]))
                heads[heads == other] = head
        goes = [np.array(sorted(joined), dtype=np.int64)]
        pairs = np.array([joined[index] for index in sorted(joined)], dtype=np.int64).reshape(-1, 2)
        return self._named(goes, [heads[goes[0]]], [pairs[:, 1]], [pairs[:, 0]])

    def _first_twins(self, rows: Places, others: Places) -> Places:
        """For each row, the first of the others that is its twin, or none."""
        found = np.full(len(rows), _NONE)
        for start in range(0, len(others), COLUMNS):
            open_ = np.flatnonzero(found == _NONE)
            if len(open_) == 0:
                break
            columns = others[start : start + COLUMNS]
            compared = self._compared(rows[open_], columns)
            first = np.where(compared.sure.any(axis=1), compared.sure.argmax(axis=1), len(columns))
            doubt = compared.doubt & (np.arange(len(columns)) < first[:, None])
            for row, column in self._verified(rows[open_], columns, doubt):
                first[row] = min(first[row], column)
            hit = first < len(columns)
            found[open_[hit]] = columns[first[hit]]
        return found

    def _among(self, rows: Places) -> Places:
        """For each of these rows, the first one before it that stays and is its twin, or none."""
        near = self._twins(rows, rows)
        found = np.full(len(rows), _NONE)
        stays = np.zeros(len(rows), dtype=bool)
        for at in range(len(rows)):
            before = near[at, :at] & stays[:at]
            stays[at] = not before.any()
            if not stays[at]:
                found[at] = rows[int(before.argmax())]
        return found

    def _earlier_twins(self) -> Iterator[tuple[int, Places]]:
        """Each row that has twins before it, with them, the soonest first."""
        for start in range(0, len(self._order), ROWS):
            block = np.arange(start, min(start + ROWS, len(self._order)))
            parts: list[list[Places]] = [[] for _ in block]
            for first in range(0, block[-1] + 1, COLUMNS):
                columns = np.arange(first, min(first + COLUMNS, block[-1] + 1))
                near = self._twins(block, columns) & (columns < block[:, None])
                for at in np.flatnonzero(near.any(axis=1)).tolist():
                    parts[at].append(columns[near[at]])
            for index, twins in zip(block.tolist(), parts, strict=True):
                if twins:
                    yield index, np.concatenate(twins)
            self._report_progress(len(block) + start)

    def _report_progress(self, rows: int) -> None:
        """Each row is held against those before it: half of the rows are a quarter of the work."""
        self._tick(rows * rows // len(self._order), len(self._order))

    def _twins(self, rows: Places, columns: Places) -> NDArray[np.bool_]:
        """(rows, columns): which are twins."""
        compared = self._compared(rows, columns)
        for row, column in self._verified(rows, columns, compared.doubt):
            compared.sure[row, column] = True
        return compared.sure

    def _compared(self, rows: Places, columns: Places) -> _Compared:
        like = self._at(rows) @ self._at(columns).T
        may = np.ones(like.shape, dtype=bool)
        if self._kinds is not None:
            may = self._kinds[self._order[rows]][:, None] == self._kinds[self._order[columns]][None, :]
        sure = (like >= self._threshold + MARGIN) & may
        return _Compared(sure, (like >= self._threshold - MARGIN) & ~sure & may)

    def _verified(self, rows: Places, columns: Places, doubt: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Those of the doubtful pairs that are twins."""
        pairs = np.argwhere(doubt)
        for start in range(0, len(pairs), _PAIRS):
            some = pairs[start : start + _PAIRS]
            like = paired_cosine_similarity(self._at(rows[some[:, 0]]), self._at(columns[some[:, 1]]))
            yield from some[np.round(like, _DIGITS) >= self._threshold].tolist()

    def _named(
        self, goes: list[Places], stays: list[Places], like: list[Places], measured_rows: list[Places] | None = None
    ) -> dict[int, Duplicate]:
        """Rows that go, with the row that stays and the similarity of the pair that shows it."""
        if not goes:
            return {}
        rows, heads, ones, others = (np.concatenate(part) for part in (goes, stays, measured_rows or goes, like))
        similarities: list[float] = []
        for start in range(0, len(rows), _PAIRS):
            part = slice(start, start + _PAIRS)
            similarities += np.round(
                paired_cosine_similarity(self._at(ones[part]), self._at(others[part])), _DIGITS
            ).tolist()
        indices, of = self._order[rows].tolist(), self._order[heads].tolist()
        return {
            index: Duplicate(head, similarity)
            for index, head, similarity in zip(indices, of, similarities, strict=True)
        }

    def _at(self, indices: Places) -> Points:
        points: Points = self._points[self._order[indices]]
        return points


class _Compared(NamedTuple):
    """(rows, columns) each: pairs that are twins, and pairs too close to the threshold to tell."""

    sure: NDArray[np.bool_]
    doubt: NDArray[np.bool_]
