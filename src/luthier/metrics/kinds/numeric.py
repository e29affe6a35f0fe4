"""Answers that are numbers: right within a tolerance, whatever stands around them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import DataError, SourceLocation
from luthier.metrics.kinds.answers import ratio_of_sums
from luthier.metrics.metric import EvalPredictions, Form, Metric
from luthier.metrics.text.numbers import Amount, Decimal, NumberPosition, extract_answer_number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block


class NumericMatch(Metric):
    """Share of rows whose answer is one of the references' numbers: after `####` (GSM8K), else the last that it says.

    Thousands separators, currency signs, fractions (3/4) and powers (1e-3) are read. An answer without a number is
    wrong; a reference without one is an error.
    """

    kind: Literal["numeric"] = "numeric"
    proportion: ClassVar[bool] = True
    form: ClassVar[Form] = "number"
    absolute: float = Field(default=0.0, ge=0)
    """How far an answer may lie off."""
    relative: float = Field(default=1e-9, ge=0)
    """How far it may lie off, as a share of the reference; either tolerance is enough."""
    units: Literal["overlook", "same"] = "overlook"
    """`same`: where both name a unit, they must measure the same, and are converted (km and m, h and min); an
    unknown unit must be the same word. `overlook`: only the numbers count."""
    decimal: Decimal = "point"
    """What stands before decimals: `point` (1,234.5) or `comma` (1.234,5)."""
    position: NumberPosition = "last"
    """Which number of a text is its answer when `####` does not say."""

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        right = [
            any(self.equal(self._said(prediction), real) for real in self._real(row, references))
            for row, (prediction, references) in enumerate(zip(answers.predictions, answers.references, strict=True))
        ]
        return np.stack([np.array(right, dtype=np.float64), np.ones(len(right))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)

    def equal(self, predicted: Amount | None, real: Amount) -> bool:
        """Whether a number is near enough."""
        if predicted is None:
            return False
        ours, theirs = predicted.value, real.value
        if self.units == "same" and predicted.unit and real.unit:
            if predicted.family != real.family:
                return False
            ours, theirs = predicted.in_base, real.in_base
        room = max(Fraction(self.absolute), Fraction(self.relative) * abs(theirs))
        return abs(ours - theirs) <= room

    def _said(self, text: str) -> Amount | None:
        return extract_answer_number(text, decimal=self.decimal, position=self.position)

    def _real(self, row: int, references: tuple[str, ...]) -> list[Amount]:
        amounts = [self._said(text) for text in references]
        if None in amounts:
            what = f"row {row + 1}: the reference {references[amounts.index(None)][:60]!r} holds no number"
            raise DataError(
                what, where=SourceLocation(field="reference"), hint="leave the row or the metric numeric out"
            )
        return [amount for amount in amounts if amount is not None]
