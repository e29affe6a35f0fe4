"""One of several parts of the rows that have no prompt, and no picture, in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.data.operator import Drop, OperatorResult, Reads, RowOperator
from luthier.data.row import Row


class ShardOperator(RowOperator):
    """Keep one of several equal, disjoint shards of the rows, assigned by prompt: two shards never share a prompt.

    Rows with pictures or sounds are assigned by these alone: two shards never share one.

    For models that must not have learnt the same rows, such as a reward model that is learnt from and another one by
    which the result is judged. It never suggests itself.
    """

    kind: Literal["part"] = "part"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt",)

    number: int = Field(default=1, ge=1)
    """Which part is kept, from 1."""
    of: int = Field(default=2, ge=2)
    """How many parts there are."""

    @model_validator(mode="after")
    def _there_is_one(self) -> Self:
        if self.number > self.of:
            raise ValueError(f"there are {self.of} parts and part {self.number} is wanted; number is at most of")
        return self

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Drop the rows of the other parts."""
        part_numbers = [1 + _place(row.media_key or row.prompt, self.of) for row in rows]
        return OperatorResult(
            drops={
                at: Drop(f"of part {part_number}, and part {self.number} is kept")
                for at, part_number in enumerate(part_numbers)
                if part_number != self.number
            }
        )


def _place(key: str, parts: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % parts
