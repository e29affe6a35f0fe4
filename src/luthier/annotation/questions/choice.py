"""Which of several labels fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.annotation.label_question import LabelQuestion
from luthier.annotation.question import AnswerKey, AnswerValue, QuestionItem

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
    def keys(self) -> tuple[AnswerKey, ...]:
        return tuple(AnswerKey(key, name, name) for name, key in self.key_of.items())

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        return self.find_label(text)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        return self.check_label(value)

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"label": value}
