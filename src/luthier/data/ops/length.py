"""How many words a row has, and which rows are too short or too long to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.data.operator import Column, Drop, Outcome, Reads, RowOperator
from luthier.data.row import Row


class Length(RowOperator):
    """Count the words of what was asked, and leave out rows with too few or too many of them."""

    kind: Literal["length"] = "length"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt",)
    writes: ClassVar[dict[str, Column]] = {"words": "count"}

    at_least: int = Field(default=1, ge=0)
    """Rows with fewer words are dropped."""
    at_most: int | None = Field(default=None, ge=1)
    """Rows with more words are dropped; no limit by default."""

    def apply(self, rows: Sequence[Row]) -> Outcome:
        """Count, and say what falls outside."""
        counts = [len(row.prompt.split()) for row in rows]
        outcome = Outcome(attributes={"words": counts})
        for place, words in enumerate(counts):
            if words < self.at_least:
                outcome.drops[place] = Drop(f"too short: {words} words")
            elif self.at_most is not None and words > self.at_most:
                outcome.drops[place] = Drop(f"too long: {words} words")
        return outcome
