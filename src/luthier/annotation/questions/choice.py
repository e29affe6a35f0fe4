"""Questions with labels: exactly one, or all that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.annotation.question import AnswerShortcut, AnswerValue, InvalidAnswer, LabelQuestion, QuestionItem

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level


class ChoiceQuestion(LabelQuestion):
    """One label of several; a model learns to classify."""

    kind: Literal["choice"] = "choice"
    widget: ClassVar[str] = "choice"
    level: ClassVar[Level] = "nominal"

    question: str = "Which label fits?"
    """What people are asked."""

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return self.key_legend

    @property
    def keys(self) -> tuple[AnswerShortcut, ...]:
        return tuple(AnswerShortcut(key, name, name) for name, key in self.key_of.items())

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        return self.find_label(text)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        return self.check_label(value)

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"label": value}


_NONE = "-"


class ChoicesQuestion(LabelQuestion):
    """As many labels as fit; a model learns all of them."""

    kind: Literal["choices"] = "choices"
    widget: ClassVar[str] = "choices"
    level: ClassVar[Level] = "nominal"

    question: str = "Which labels fit?"
    """What people are asked."""
    min: int = Field(default=0, ge=0)
    """The fewest labels; with 0, none at all is an answer."""
    max: int | None = Field(default=None, ge=1)
    """The most labels; left out, all."""

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.min > min(len(self.labels), self.max or len(self.labels)):
            raise ValueError(f"nobody can give {self.min} labels (min) here")
        return self

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return f"{self.key_legend}; several by comma" + ("" if self.min else f", {_NONE} for none")

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        if text.strip() == _NONE:
            return self.check([], item)
        return self.check([self.find_label(entry) for entry in text.split(",")], item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        if not isinstance(value, list | tuple):
            raise InvalidAnswer(f"expected a list of labels, got {value!r}")
        given = {self.check_label(entry) for entry in value}
        if not self.min <= len(given) <= (self.max or len(self.labels)):
            most = "" if self.max is None else f" and at most {self.max}"
            raise InvalidAnswer(f"expected at least {self.min}{most} labels, got {len(given)}")
        return [label.name for label in self.labels if label.name in given]

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"labels": value}

    def to_comparable(self, value: AnswerValue, item: QuestionItem) -> str | float:
        return "; ".join(value)

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        either = {*one, *other}
        return len({*one} & {*other}) / len(either) if either else 1.0
