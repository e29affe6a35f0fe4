"""Rows that mean nearly the same, in whatever words: points of an embedder, all pairs compared."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from luthier.core.param_space import ParamDistribution
from luthier.data.dedup.duplicates import DedupReport, DuplicatePairs, report_duplicates
from luthier.data.dedup.keep import Keep, check_keep_column, keep_preferences, rank_by_preference
from luthier.data.dedup.shingles import Compared, digest8, text_to_compare
from luthier.data.operator import Column, Reads, RowCorpus, SetOperator
from luthier.data.row import Row
from luthier.models.embedders.lsa import LsaEmbedder
from luthier.models.embeddings.base import Embedder

if TYPE_CHECKING:
    from luthier.models.embeddings.base import Points

_AT_ONCE = 4096
"""Texts that become points together."""
_SECONDS_A_PAIR = 12e-9
"""Of points with 256 to 384 numbers, on one core of a common server."""


_SKETCH = np.dtype([("preferred", "<f8"), ("media", "<u8")])


class SemanticDedup(SetOperator):
    """Keep one of rows that mean nearly the same, or only mark them as one cluster.

    Texts become points; two rows are twins when the cosine between theirs reaches the threshold (Abbas et al. 2023,
    SemDeDup). All pairs are compared, those near the threshold in double precision: no answer depends on luck, on the
    order of rows or on how many are read together. Time grows with the square of the rows that stay. Where the embedder
    learns from the rows, those that stayed make another space in which others may be twins. It never suggests itself:
    two questions that mean the same may well both be worth learning, and comparing all pairs takes long.
    """

    kind: Literal["semantic_dedup"] = "semantic_dedup"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 65
    writes: ClassVar[dict[str, Column]] = {"cluster": "text", "similarity": "number"}
    idempotent: ClassVar[bool] = False

    threshold: float = Field(default=0.9, ge=0.5, le=1)
    """Cosine from which two rows are twins; what it means depends on the embedder, so look at some pairs first with
    `action: flag`."""
    embedder: Embedder = LsaEmbedder()
    """What makes points: `lsa` sees other forms, spellings and orders of the same words; `encoder`, whose weights are
    fetched once, also sees that other words mean the same."""
    of: Compared = "prompt"
    """What is compared; equal prompts with other answers are twins, too, unless both are compared."""
    action: Literal["drop", "flag"] = "drop"
    """Drop all twins but one, or keep them and write their `cluster`, by which the split can hold them together."""
    keep: Keep = "first"
    """Which twin stays: the `first` or `last` in the source, the `longest`, the `newest` or `best` by a column."""
    by: str | None = None
    """The column with the date (`newest`) or the number (`best`)."""

    _base: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _rule_is_whole(self) -> SemanticDedup:
        check_keep_column(self.keep, self.by)
        return self

    def at(self, recipe_dir: Path, kept: Path | None = None) -> SemanticDedup:
        """The operator with an embedder's folder looked for below this one."""
        placed = self.model_copy()
        placed._base = recipe_dir
        return placed

    def sketch(self, rows: Sequence[Row]) -> list[bytes]:
        """What each row is preferred by, and a digest of what it shows and plays."""
        preferred = keep_preferences(rows, self.keep, self.by)
        keys = [digest8(key) if (key := row.media_key) else 0 for row in rows]
        return [struct.pack("<dQ", *pair) for pair in zip(preferred, keys, strict=True)]

    def settle(self, corpus: RowCorpus) -> DedupReport:
        """Compare all points and decide who stays."""
        import tempfile

        from luthier.data.dedup.similarity import CosineDuplicateFinder

        sketches = np.ascontiguousarray(corpus.sketches).view(_SKETCH).reshape(-1)
        kinds = np.ascontiguousarray(sketches["media"])
        with tempfile.TemporaryFile(dir=corpus.scratch, prefix="luthier.points.") as file:
            near = CosineDuplicateFinder(
                self._points(corpus, file),
                rank_by_preference(sketches["preferred"]),
                self.threshold,
                corpus.tick,
                kinds if kinds.any() else None,
            )
            found = near.kept_twins() if self.action == "drop" else near.clusters()
        reason = "means the same" if self.action == "drop" else None
        return report_duplicates(DuplicatePairs.those(found), len(corpus), corpus.id, reason)

    def extra_s(self, rows: int, sample: Sequence[Row] = ()) -> float:
        """All pairs."""
        return rows * (rows - 1) / 2 * _SECONDS_A_PAIR

    def _points(self, corpus: RowCorpus, file: IO[bytes]) -> Points:
        """(rows, width): the points of all rows, on the disk."""
        space = self.embedder.space(self._texts(corpus), recipe_dir=self._base, seed=0)
        points: Any = np.zeros((0, space.width), dtype=np.float32)
        if len(corpus):
            points = np.memmap(file, dtype=np.float32, mode="w+", shape=(len(corpus), space.width))
        texts, start = self._texts(corpus), 0
        while some := list(islice(texts, _AT_ONCE)):
            points[start : start + len(some)] = space.points(some)
            start += len(some)
            corpus.tick(start, len(corpus))
        found: Points = points
        return found

    def _texts(self, corpus: RowCorpus) -> Iterator[str]:
        return (text_to_compare(row, self.of) for row in corpus.rows())

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """How like twins are, where they are dropped."""
        return {"threshold": ParamDistribution(0.8, 0.98)} if self.action == "drop" else {}
