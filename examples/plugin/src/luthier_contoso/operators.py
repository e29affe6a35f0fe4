"""Operators: what is done to rows before they are trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.data.operator import Column, Drop, OperatorResult, Reads, RowOperator
from luthier.data.row import Row

_NUMBER = re.compile(r"\bCT-\d{6}\b")


class TicketNumber(RowOperator):
    """Count the ticket numbers of a question, and drop rows that name none where one is required."""

    kind: Literal["ticket_number"] = "ticket_number"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt",)
    writes: ClassVar[dict[str, Column]] = {"ticket_numbers": "count"}

    required: bool = False
    """Whether a row without a ticket number is dropped."""

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Count in each row, and say which are dropped."""
        counts = [len(_NUMBER.findall(row.prompt)) for row in rows]
        outcome = OperatorResult(attributes={"ticket_numbers": counts})
        if self.required:
            for index, count in enumerate(counts):
                if not count:
                    outcome.drops[index] = Drop("names no ticket number")
        return outcome
