"""Rows that repeat a benchmark, or a row that is held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PrivateAttr

from luthier.data.columns.mapping import MappedRecord
from luthier.data.dedup.contamination import ContaminationIndex, ContaminationMatch
from luthier.data.operator import Column, Drop, Judge, OperatorResult, Reads, RowCorpus, RowOperator
from luthier.data.row import BrokenRow, Row, SourceRecord
from luthier.data.source import Source


class Decontaminate(RowOperator):
    """Leave out rows that repeat a named benchmark, and training rows that repeat a row held out by the split.

    A row repeats a text when it is a near copy of it, word by word (every proposed pair is verified, and one in a
    million copies is overlooked at most), or when it holds runs of 13 of the text's words that make up a share of it
    (Brown et al. 2020; Touvron et al. 2023, Llama 2, who call a text clean below 20 %). Each such row is listed with
    what it repeats, where that stands, and how similar it is. A copy inside a longer text is found by its runs only.

    It never suggests itself: a file does not say which benchmarks it will be measured by, and near copies across splits
    are `near_dedup`'s.
    """

    kind: Literal["decontaminate"] = "decontaminate"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 90
    writes: ClassVar[dict[str, Column]] = {"repeats": "text", "similarity": "number"}

    against: tuple[Source, ...] = ()
    """Benchmarks that must stay unseen, such as `[{kind: jsonl, path: gsm8k_test.jsonl}]`; kept in memory."""
    held_out: bool = True
    """Leave out training rows that repeat a row of the test or validation split."""
    similarity: float = Field(default=0.85, ge=0.6, le=1)
    """Share of words that a near copy has in common, in order: 1 - word edits / words of the longer."""
    overlap: float = Field(default=0.2, gt=0, le=1)
    """Share of a text's words that must stand in shared runs of 13."""
    action: Literal["drop", "flag"] = "drop"
    """Leave such rows out, or only write what they repeat; rows that repeat a held-out row are always left out."""

    _base: Path = PrivateAttr(default=Path())

    def at(self, recipe_dir: Path, kept: Path | None = None) -> Decontaminate:
        """The operator with benchmarks read below this folder; what is wrong with one is said at once."""
        for source in self.against:
            source.glance(recipe_dir)
        placed = self.model_copy()
        placed._base = recipe_dir
        return placed

    @cached_property
    def _unseen(self) -> ContaminationIndex:
        rows: list[Row] = []

        def named() -> Iterator[tuple[str, Row]]:
            for source in self.against:
                for found in source.mapped(self._base, lambda text: None):
                    if isinstance(found, BrokenRow):
                        if source.on_error == "stop":
                            raise found.error()
                        continue
                    rows.append(_row(len(rows), source, *found))
                    yield f"{found[0].file}:{found[0].line}", rows[-1]

        return ContaminationIndex(named(), rows.__getitem__, similarity=self.similarity, overlap=self.overlap)

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Compare rows with the benchmarks."""
        hits = self._unseen.hits(rows) if self.against else [None] * len(rows)
        outcome = OperatorResult(
            attributes={
                "repeats": [hit.name if hit else None for hit in hits],
                "similarity": [hit.similarity if hit else None for hit in hits],
            }
        )
        if self.action == "drop":
            outcome.drops.update({index: _drop(hit, "a benchmark") for index, hit in enumerate(hits) if hit})
        return outcome

    def after_split(self, held_out: RowCorpus) -> Judge | None:
        """Compare training rows with those that are held out."""
        if not self.held_out or not len(held_out):
            return None
        named = ((row.id, row) for row in held_out.rows())
        unseen = ContaminationIndex(named, held_out.row, similarity=self.similarity, overlap=self.overlap)

        def judge(rows: Sequence[Row]) -> dict[int, Drop]:
            return {index: _drop(hit, "a held-out row") for index, hit in enumerate(unseen.hits(rows)) if hit}

        return judge


def _row(number: int, source: Source, record: SourceRecord, parts: MappedRecord) -> Row:
    name = f"{number:016x}"
    return Row(number, name, source.kind, record.file, record.line, parts.kind, parts.messages)


def _drop(hit: ContaminationMatch, what: str) -> Drop:
    return Drop(f"repeats {what}: {hit.how}", twin=hit.name, similarity=hit.similarity)
