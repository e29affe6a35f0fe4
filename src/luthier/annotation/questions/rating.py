"""Questions with points: one scale, or a rubric of criteria."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from luthier.annotation.question import (
    AnswerShortcut,
    AnswerValue,
    InvalidAnswer,
    QuestionItem,
    RatingQuestion,
    parse_whole_number,
)
from luthier.core.component import add_field_descriptions

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
    def keys(self) -> tuple[AnswerShortcut, ...]:
        meaning = {1: f"1: {self.ends[0]}", self.scale: f"{self.scale}: {self.ends[1]}"}
        typed = zip("1234567890-", range(1, self.scale + 1), strict=False)
        return tuple(AnswerShortcut(key, meaning.get(number, str(number)), number) for key, number in typed)

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

    def gold(self, good: int | None) -> AnswerValue:
        return 1

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"rating": value}

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        return 1 - abs(float(one) - float(other)) / (self.scale - 1)


class RubricCriterion(BaseModel):
    """One thing that is looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    name: str = Field(min_length=1, pattern=r"^[A-Za-z_][\w ]*$")
    """What it is called."""
    about: str = ""
    """What earns the points."""
    weight: float = Field(default=1.0, gt=0)
    """How much it counts beside the others."""


class RubricQuestion(RatingQuestion):
    """One answer, or a text, by several criteria, each from 0; its points are the weighted mean."""

    kind: Literal["rubric"] = "rubric"
    widget: ClassVar[str] = "rubric"
    level: ClassVar[Level] = "interval"

    question: str = "How does this answer do, by each criterion?"
    """What people are asked."""
    criteria: tuple[RubricCriterion, ...] = Field(
        default=(
            RubricCriterion(name="correct", about="what it says is true"),
            RubricCriterion(name="complete", about="it answers all that was asked"),
            RubricCriterion(name="clear", about="it reads well and holds nothing needless"),
        ),
        min_length=1,
    )
    """What is looked at."""
    max: int = Field(default=3, ge=1, le=10)
    """The most points of a criterion."""

    @field_validator("criteria")
    @classmethod
    def _names_differ(cls, criteria: tuple[RubricCriterion, ...]) -> tuple[RubricCriterion, ...]:
        names = [criterion.name for criterion in criteria]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"criterion {twice!r} stands twice")
        return criteria

    @property
    def question_text(self) -> str:
        lines = [
            self.question,
            *(
                f"  {criterion.name}: {criterion.about}" if criterion.about else f"  {criterion.name}"
                for criterion in self.criteria
            ),
        ]
        return "\n".join(lines)

    @property
    def legend(self) -> str:
        names = " ".join(criterion.name for criterion in self.criteria)
        return f"{len(self.criteria)} numbers from 0 to {self.max}: {names}"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, float(self.max)

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        came = text.replace(",", " ").split()
        if len(came) != len(self.criteria):
            raise InvalidAnswer(f"expected {len(self.criteria)} numbers, got {len(came)}")
        return self.check({criterion.name: number for criterion, number in zip(self.criteria, came, strict=True)}, item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        names = [criterion.name for criterion in self.criteria]
        if not isinstance(value, dict) or set(value) != set(names):
            came = ", ".join(map(str, value)) if isinstance(value, dict) else repr(value)
            raise InvalidAnswer(f"expected a number for each of {', '.join(names)}; got {came}")
        return {name: parse_whole_number(value[name], 0, self.max) for name in names}

    def points(self, value: AnswerValue, item: QuestionItem) -> tuple[float, ...]:
        weights = sum(criterion.weight for criterion in self.criteria)
        return (sum(criterion.weight * value[criterion.name] for criterion in self.criteria) / weights,)

    def passes(self, value: AnswerValue, item: QuestionItem, good: int | None) -> bool:
        return self.points(value, item)[0] <= self.max / 2

    def gold(self, good: int | None) -> AnswerValue:
        return {criterion.name: 0 for criterion in self.criteria}

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"rating": self.points(value, item)[0]}

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        return 1 - abs(self.points(one, item)[0] - self.points(other, item)[0]) / self.max
