"""How good something is, on a scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.annotation.question import AnswerKey, AnswerValue, QuestionItem
from luthier.annotation.rating_question import RatingQuestion, parse_whole_number

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level


class RatingScaleQuestion(RatingQuestion):
    """One answer, or a text, on a scale from 1 (Likert); its points are the number given."""

    kind: Literal["rating"] = "rating"
    widget: ClassVar[str] = "rating"
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
    def keys(self) -> tuple[AnswerKey, ...]:
        meaning = {1: f"1: {self.ends[0]}", self.scale: f"{self.scale}: {self.ends[1]}"}
        typed = zip("1234567890-", range(1, self.scale + 1), strict=False)
        return tuple(AnswerKey(key, meaning.get(number, str(number)), number) for key, number in typed)

    @property
    def bounds(self) -> tuple[float, float]:
        return 1.0, float(self.scale)

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        return self.check(text, item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        return parse_whole_number(value, 1, self.scale)

    def points(self, value: AnswerValue, item: QuestionItem) -> tuple[float, ...]:
        return (float(value),)

    def passes(self, value: AnswerValue, item: QuestionItem, good: int | None) -> bool:
        return bool(value <= (1 + self.scale) / 2)

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"rating": value}

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        return 1 - abs(float(one) - float(other)) / (self.scale - 1)
