"""What a good answer says, in people's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.annotation.question import AnswerValue, InvalidAnswer, Question, QuestionItem

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level


class TextQuestion(Question):
    """A free answer; a model learns to give it."""

    kind: Literal["text"] = "text"
    widget: ClassVar[str] = "text"
    level: ClassVar[Level] = "nominal"

    question: str = "What would be a good answer?"
    """What people are asked."""
    max_length: int = Field(default=10_000, ge=1)
    """The most characters."""

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return f"a text of at most {self.max_length:,} characters"

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        return self.check(text, item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        kept = normalize_text(value)
        if len(kept) > self.max_length:
            raise InvalidAnswer(f"expected at most {self.max_length:,} characters, got {len(kept):,}")
        return kept

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"answer": value}


def normalize_text(value: AnswerValue) -> str:
    """A text with plain line ends and no space around it; `InvalidAnswer` when nothing is left."""
    kept = value.replace("\r\n", "\n").replace("\r", "\n").strip() if isinstance(value, str) else ""
    if not kept:
        raise InvalidAnswer(f"expected a text, got {value!r}")
    return kept
