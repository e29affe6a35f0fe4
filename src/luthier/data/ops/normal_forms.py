"""Dates, times, numbers and units in one written form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import ClassVar, Literal

from luthier.data.cleaning.normal_forms import (
    DateOrder,
    Decimal,
    NormalizedText,
    apply_until_stable,
    normalize_dates,
    normalize_numbers,
    normalize_times,
    normalize_units,
)
from luthier.data.cleaning.spans import clean_outside_code, diff_to_edits
from luthier.data.operator import Column, OperatorResult, Reads, RowOperator
from luthier.data.row import Row


class DateNumberNormalizer(RowOperator):
    """Rewrite dates as ISO 8601, times on 24 hours, numbers with a decimal point, and units as symbols.

    What could mean two things (`3/4/2025`, `1,234`, `1 to 4 pm`) is left alone and counted in `ambiguous`, until
    `order` and `decimal` say what it means. Code between backticks is left alone. Months are known in seven languages.
    It never suggests itself: people will go on to write dates as they please, and only you know whether a model shall
    read, and write, one form alone.
    """

    kind: Literal["normal_forms"] = "normal_forms"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    writes: ClassVar[dict[str, Column]] = {"ambiguous": "count"}

    dates: bool = True
    """`3 February 2025`, `Feb 3, 2025` and `03.02.2025` become `2025-02-03`."""
    times: bool = True
    """`3:30 pm` becomes `15:30`."""
    numbers: bool = True
    """`1.234,56`, `1,234.56` and `1'234.56` become `1234.56`."""
    units: bool = True
    """`5 kilograms` and `5kg` become `5 kg`."""
    order: DateOrder = "unknown"
    """What comes first in `3/4/2025`."""
    decimal: Decimal = "unknown"
    """What the mark in `1,234` and `1,5` is: with `point`, a comma stands between thousands."""

    @cached_property
    def _passes(self) -> list[Callable[[str], NormalizedText]]:
        switches: dict[Callable[[str], NormalizedText], bool] = {
            partial(normalize_dates, order=self.order): self.dates,
            normalize_times: self.times,
            partial(normalize_numbers, decimal=self.decimal): self.numbers,
            normalize_units: self.units,
        }
        return [entry for entry, is_enabled in switches.items() if is_enabled]

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Say what changes, and count what is left alone."""
        ambiguous = [0] * len(rows)
        outcome = OperatorResult(attributes={"ambiguous": ambiguous})
        for index, row in enumerate(rows):
            for field, text in row.texts_with_rejected(("user", "assistant")):
                if not any(map(str.isdecimal, text)):
                    continue
                found: list[int] = []
                clean = clean_outside_code(text, partial(self._clean, found=found))
                ambiguous[index] += sum(found)
                if clean != text:
                    outcome.edits.setdefault(index, []).extend(diff_to_edits(field, text, clean, "normal form"))
        return outcome

    def _clean(self, text: str, found: list[int]) -> str:
        """One stretch in normal forms; what it leaves is added to what is found."""
        clean, left = apply_until_stable(text, self._passes)
        found.append(left)
        return clean
