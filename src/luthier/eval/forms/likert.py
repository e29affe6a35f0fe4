"""How good one answer is, on a scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.eval.form import InvalidRatingValue, RatingForm, Value

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level


class Likert(RatingForm):
    """One answer on a scale from 1; its points are the number given."""

    kind: Literal["likert"] = "likert"
    level: ClassVar[Level] = "ordinal"

    question: str = "How helpful is this answer?"
    """What people are asked."""
    scale: int = Field(default=5, ge=2, le=11)
    """The highest number."""
    ends: tuple[str, str] = ("not at all", "very")
    """What the lowest and the highest number mean."""

    @model_validator(mode="after")
    def _ends_differ(self) -> Self:
        if self.ends[0] == self.ends[1]:
            raise ValueError("both ends of the scale mean the same")
        return self

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return f"1 ({self.ends[0]}) to {self.scale} ({self.ends[1]})"

    @property
    def bounds(self) -> tuple[float, float]:
        return 1.0, float(self.scale)

    def typed(self, text: str) -> Value:
        return self.check(text, ("",))

    def check(self, value: Value, answers: tuple[str, ...]) -> Value:
        return parse_whole_number(value, 1, self.scale)

    def points(self, value: Value, answers: tuple[str, ...]) -> tuple[float, ...]:
        return (float(value),)

    def passes(self, value: Value, answers: tuple[str, ...], good: int | None) -> bool:
        return bool(value <= (1 + self.scale) / 2)


def parse_whole_number(value: Value, low: int, high: int) -> int:
    """A whole number within bounds, also when it came as text or as 3.0; `InvalidRatingValue` otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or number != round(number, 0) or not low <= number <= high:
        raise InvalidRatingValue(f"expected a whole number from {low} to {high}, got {value!r}")
    return int(number)
