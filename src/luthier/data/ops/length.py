"""Operator that drops rows that are too short or too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution, list_unique_values
from luthier.data.operator import Column, Drop, OperatorResult, Reads, RowOperator
from luthier.data.row import Row

_CHARACTERS_A_WORD = 6
"""With the space after it, in plain English."""


class LengthOperator(RowOperator):
    """Count the words or characters of what was asked, and leave out rows with too few or too many of them.

    Where nothing was asked, the text to continue is counted. It never suggests itself: no length is wrong by itself.
    The check `length_outliers` of the step `validate` finds rows that are far longer than the others, and names the
    limit that leaves them out.
    """

    kind: Literal["length"] = "length"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    writes: ClassVar[dict[str, Column]] = {"length": "count"}

    unit: Literal["words", "characters"] = "words"
    """What is counted; the operator `tokens` counts those of a model."""
    min: int = Field(default=1, ge=0)
    """Shorter rows are dropped."""
    max: int | None = Field(default=None, ge=1)
    """Longer rows are dropped; no limit by default."""

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Count, and say what falls outside."""
        texts = [row.prompt or row.answer for row in rows]
        lengths = [len(text if self.unit == "characters" else text.split()) for text in texts]
        outcome = OperatorResult(attributes={"length": lengths})
        for index, length in enumerate(lengths):
            if length < self.min:
                outcome.drops[index] = Drop(f"too short: {length} {self.unit}")
            elif self.max is not None and length > self.max:
                outcome.drops[index] = Drop(f"too long: {length} {self.unit}")
        return outcome

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Limits around the lengths of messages and answers."""
        times = 1 if self.unit == "words" else _CHARACTERS_A_WORD
        least = tuple(value for value in (1, 3 * times, 5 * times, 10 * times) if self.max is None or value < self.max)
        most = tuple(value for words in (50, 100, 200, 400) if (value := words * times) > self.min)
        return {
            "min": ParamDistribution(values=list_unique_values((self.min, *least))),
            "max": ParamDistribution(values=list_unique_values((self.max, None, *most))),
        }
