"""Rows that somebody has read and does not want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from luthier.data.operator import Drop, Outcome, Reads, RowOperator
from luthier.data.row import Row

_SHORTEST = 8


class LeaveOut(RowOperator):
    """Leave rows out by their ids, such as those that a `validate` step doubts and a person has read.

    An id is a digest of the row as it was read: it stays the same when other operators or rows change. It never
    suggests itself: which rows are wrong is for somebody who has read them to say.
    """

    kind: Literal["leave_out"] = "leave_out"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer", "meta")

    ids: tuple[str, ...] = ()
    """Ids of rows, or their beginnings (at least 8 characters), as reports and `luthier trace` show them."""
    reason: str = Field(default="left out by hand", min_length=1)
    """Why, as the books will say."""

    @field_validator("ids")
    @classmethod
    def _long_enough(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        for one in ids:
            if len(one) < _SHORTEST:
                raise ValueError(f"{one!r} is too short to name a row; give at least {_SHORTEST} characters of its id")
        return ids

    def apply(self, rows: Sequence[Row]) -> Outcome:
        """Drop the rows that are named."""
        beginnings = tuple(self.ids)
        drops = {place: Drop(self.reason) for place, row in enumerate(rows) if row.id.startswith(beginnings)}
        return Outcome(drops=drops if beginnings else {})
