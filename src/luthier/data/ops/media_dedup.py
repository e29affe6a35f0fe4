"""Rows that show or play nearly the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from luthier.core.events import format_rows_affected
from luthier.core.messages import gettext_noop
from luthier.core.param_space import ParamDistribution
from luthier.data.dedup.duplicates import DedupReport, DuplicatePairs, report_duplicates
from luthier.data.dedup.media import BYTES, cluster_fingerprints, fingerprints_of
from luthier.data.dedup.shingles import digest16, prompt_text_key
from luthier.data.operator import Column, Reads, RowCorpus, SetOperator, Suggestion
from luthier.data.row import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.data.suggest.profile import SourceProfile

_MOST = 8
"""Media of a row that are compared; of more, the first."""
_DIGITS = 6
_KINDS = {"image": 1, "audio": 2}
_SKETCH = np.dtype([("text", "<u8", 2), ("kinds", "u1", _MOST), ("prints", "u1", (_MOST, BYTES))])


class MediaDedup(SetOperator):
    """Rows whose pictures or sounds are near copies: encoded anew, smaller, lighter, quieter.

    Near copies are told by perceptual fingerprints of 128 bits, and each pair is compared bit by bit. Rows that share
    one are a cluster, by which `split: {group: cluster}` holds them on one side.
    """

    kind: Literal["media_dedup"] = "media_dedup"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt",)
    suggested_at: ClassVar[int] = 70
    writes: ClassVar[Mapping[str, Column]] = {"cluster": "text", "similarity": "number"}

    action: Literal["flag", "drop"] = "flag"
    """Rows of a cluster are marked, or all but the first of those go that also ask the same."""
    distance: int = Field(default=8, ge=0, le=15)
    """In how many of 128 bits two media differ at most; unlike ones differ in about 64."""

    def sketch(self, rows: Sequence[Row]) -> list[bytes]:
        """A digest of what is asked, and kind and fingerprint of each medium."""
        found = np.zeros(len(rows), _SKETCH)
        for index, row in enumerate(rows):
            media = fingerprints_of(row.messages)[:_MOST]
            if not media:
                continue
            found["text"][index] = np.frombuffer(digest16(prompt_text_key(row)), np.uint64)
            for column, (kind, fingerprint) in enumerate(media):
                found["kinds"][index, column] = _KINDS[kind]
                found["prints"][index, column] = np.frombuffer(fingerprint, np.uint8)
        whole = found.tobytes()
        return [whole[at : at + _SKETCH.itemsize] for at in range(0, len(whole), _SKETCH.itemsize)]

    def settle(self, corpus: RowCorpus) -> DedupReport:
        """Find near copies, and the rows that share one."""
        sketches = np.ascontiguousarray(corpus.sketches).view(_SKETCH).reshape(-1)
        rows, columns = np.nonzero(sketches["kinds"])
        keys = np.column_stack([sketches["kinds"][rows, columns], sketches["prints"][rows, columns]])
        unique, which = np.unique(keys, axis=0, return_inverse=True) if len(keys) else (keys, rows)
        heads = np.zeros(len(unique), np.int64)
        distances = np.zeros(len(unique), np.int64)
        for kind in _KINDS.values():
            own = np.flatnonzero(unique[:, 0] == kind)
            twins = cluster_fingerprints(unique[own, 1:], self.distance)
            heads[own], distances[own] = own[twins.heads], twins.distances
        which = which.reshape(-1)
        found = (
            _repeated(sketches, rows, columns, heads[which], distances[which])
            if self.action == "drop"
            else _joined(len(sketches), rows, heads[which], distances[which])
        )
        return report_duplicates(found, len(corpus), corpus.id, "near copy of media" if self.action == "drop" else None)

    @classmethod
    def trial(cls) -> MediaDedup:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Where rows show or play something."""
        if not profile.media:
            return None
        holding, rows = max(profile.media.values()), profile.looked_at
        why = gettext_noop(
            f"{format_rows_affected(holding, rows, 'holds', 'hold')} media: near copies of one are marked, and stand "
            "on one side of the split"
        )
        return Suggestion({}, why)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """How alike copies are."""
        return {"distance": ParamDistribution(2, 12, integer=True)}


def _joined(count: int, rows: NDArray[Any], heads: NDArray[Any], distances: NDArray[Any]) -> DuplicatePairs:
    """Rows joined by media of one cluster, each with the first of them."""
    parents = list(range(count))

    def find_head(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first: dict[int, int] = {}
    nearest: dict[int, int] = {}
    for row, head, distance in zip(rows.tolist(), heads.tolist(), distances.tolist(), strict=True):
        other = first.setdefault(head, row)
        low, high = sorted((find_head(row), find_head(other)))
        parents[high] = low
        nearest[row] = min(nearest.get(row, distance), distance)
    joined = [(row, head) for row in sorted(nearest) if (head := find_head(row)) != row]
    return _pairs(joined, nearest)


def _repeated(
    sketches: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any], heads: NDArray[Any], distances: NDArray[Any]
) -> DuplicatePairs:
    """Rows that show near copies of the same in the same order and ask the same, each with the first."""
    shown = np.full((len(sketches), _MOST), -1, np.int64)
    shown[rows, columns] = heads
    farthest: dict[int, int] = {}
    for row, distance in zip(rows.tolist(), distances.tolist(), strict=True):
        farthest[row] = max(farthest.get(row, 0), distance)
    first: dict[bytes, int] = {}
    joined = []
    for row in sorted(farthest):
        key = shown[row].tobytes() + sketches["text"][row].tobytes()
        if (head := first.setdefault(key, row)) != row:
            joined.append((row, head))
    return _pairs(joined, farthest)


def _pairs(joined: Sequence[tuple[int, int]], distances: Mapping[int, int]) -> DuplicatePairs:
    indices, of = (np.array([pair[side] for pair in joined], np.int64) for side in (0, 1))
    alike = [round(1 - distances[row] / (8 * BYTES), _DIGITS) for row, _ in joined]
    return DuplicatePairs(indices, of, np.array(alike, np.float64))
