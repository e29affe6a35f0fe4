"""Rows that somebody has read and does not want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from luthier.data.operator import Drop, OperatorResult, Reads, RowOperator
from luthier.data.row import Row

_SHORTEST = 8


class ExcludeIds(RowOperator):
    """Leave rows out by their ids, such as those that a `validate` step doubts and a person has read.

    An id is a digest of the row as it was read: it stays the same when other operators or rows change. It never
    suggests itself: which rows are wrong is for somebody who has read them to say.
    """

    kind: Literal["exclude_ids"] = "exclude_ids"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer", "meta")

    ids: tuple[str, ...] = ()
    """Ids of rows, or their beginnings (at least 8 characters), as reports and `luthier lineage` show them."""
    reason: str = Field(default="left out by hand", min_length=1)
    """Why, as the books will say."""

    @field_validator("ids")
    @classmethod
    def _long_enough(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        for id_ in ids:
            if len(id_) < _SHORTEST:
                raise ValueError(f"{id_!r} is too short to name a row; give at least {_SHORTEST} characters of its id")
        return ids

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Drop the rows that are named."""
        beginnings = tuple(self.ids)
        drops = {index: Drop(self.reason) for index, row in enumerate(rows) if row.id.startswith(beginnings)}
        return OperatorResult(drops=drops if beginnings else {})
