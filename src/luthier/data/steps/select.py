"""The step that chooses what people should label next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import DataError, Where
from luthier.core.step import DataRef, Forecast, Makes, Outline, Outlook, Step, Work
from luthier.data.label.judgment import PROPOSAL, judgments_of
from luthier.data.remake import Remade, asked_text, read_rows
from luthier.data.row import Row
from luthier.data.selector import Candidate, Pool, Selector
from luthier.data.selectors.mmr import Mmr
from luthier.data.steps.label import rows_ahead
from luthier.text.dataset import has_split, splits, summary

SELECTED = "selected"
"""The column of `meta` with a chosen row's rank and score."""
ROWS_PER_S = 5_000


class Select(Step):
    """Choose the rows that people should label next, in the order in which they should be asked about.

    Makes a data set of the chosen rows, for `luthier export … --format label-studio` and the like; `meta.selected` has
    `rank` and `score`. Rows that people have judged are not chosen again, and what resembles them is worth less.
    """

    kind: Literal["select"] = "select"
    makes: ClassVar[Makes] = "dataset"

    data: DataRef
    """The step that made the data set; where rows are chosen by uncertainty, a step `propose`."""
    count: int = Field(default=100, ge=1)
    """How many rows are chosen."""
    by: Selector = Mmr()
    """What makes a row worth labelling."""
    split: Literal["train", "validation", "test"] = "train"
    """The split from which rows are chosen; all others are left out."""

    def make(self, work: Work) -> Mapping[str, Any]:
        """Read, choose, and write the chosen rows."""
        started = time.perf_counter()
        data = work.inputs["data"]
        told = summary(data)
        if not has_split(data, self.split):
            raise DataError(f"the data set has no split {self.split!r}", where=Where(field="split"))
        rows = [row for batch in read_rows(data, self.split) for row in batch]
        judged = [bool(judgments_of(row.meta)) for row in rows]
        pool = Pool(
            [_candidate(row) for row, done in zip(rows, judged, strict=True) if not done],
            [asked_text(row) for row, done in zip(rows, judged, strict=True) if done],
            work.seed,
        )
        if not pool.candidates:
            raise DataError("every row is judged already", where=Where(field="split"))
        chosen = self.by.choose(pool, self.count)
        made = Remade(work, data)
        picked = [
            (_marked(pool.candidates[one.place].row, rank, one.score), pool.candidates[one.place].row)
            for rank, one in enumerate(chosen, start=1)
        ]
        made.keep(
            self.split, [new for new, _ in picked], [old.answer if told.task == "label" else None for _, old in picked]
        )
        taken = {old.id for _, old in picked}
        for row, done in zip(rows, judged, strict=True):
            if row.id not in taken:
                made.drop(row, "judged already" if done else "not selected")
        for other in splits(data):
            for batch in read_rows(data, other) if other != self.split else ():
                for row in batch:
                    made.drop(row, "in another split")
        made.close(task=told.task, labels=told.labels)
        work.events.note(f"{len(picked)} of {len(pool.candidates)} rows are chosen by {self.by.kind}")
        return {"rows_per_s": len(rows) / max(time.perf_counter() - started, 1e-9)}

    def foresee(self, outlook: Outlook) -> Forecast:
        """From the rows and the speed of the last time, or a common one."""
        rows = rows_ahead(outlook)
        if rows is None:
            return Forecast(how="the data set is not made yet")
        speed = outlook.history.get("measures", {}).get("rows_per_s") or ROWS_PER_S
        return Forecast(seconds=1 + rows / speed, how=f"{rows:,} rows at {speed:,.0f} rows/s")

    def outline(self, outlook: Outlook) -> Outline:
        """As many rows as are chosen."""
        before = outlook.outlines.get("data", Outline())
        rows = (before.rows or {}).get(self.split)
        return replace(before, rows={self.split: self.count if rows is None else min(rows, self.count)})


def _candidate(row: Row) -> Candidate:
    proposal = row.meta.get(PROPOSAL)
    shares = proposal.get("scores") if isinstance(proposal, dict) else None
    return Candidate(row, asked_text(row), shares or None)


def _marked(row: Row, rank: int, score: float) -> Row:
    return replace(row, meta={**row.meta, SELECTED: {"rank": rank, "score": score}})
