"""Questions answered in text: a reference answer, or a corrected turn of a conversation."""

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


class CorrectionQuestion(Question):
    """A better text of one turn; a model learns the conversation up to it, with the better text at its end.

    An item's candidate answer is the conversation's last turn.
    """

    kind: Literal["correction"] = "correction"
    widget: ClassVar[str] = "correction"
    level: ClassVar[Level] = "nominal"

    question: str = "What should this turn say?"
    """What people are asked."""
    roles: tuple[str, ...] = Field(default=("assistant", "user", "system"), min_length=1)
    """Whose turns may be corrected."""

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return (
            f"a better text of the last turn ({' or '.join(self.roles)}), or the turn's number first: 2: a better text"
        )

    def turns(self, item: QuestionItem) -> list[dict[str, Any]]:
        """The conversation with the candidate answer at its end."""
        answer = [{"role": "assistant", "content": item.answers[0]}] if item.answers else []
        return [*map(dict, item.messages), *answer]

    def correctable(self, item: QuestionItem) -> list[int]:
        """The places of the turns that may be corrected."""
        return [at for at, turn in enumerate(self.turns(item)) if turn.get("role") in self.roles]

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        number, colon, rest = text.partition(":")
        if colon and number.strip().isdecimal():
            return self.check({"turn": int(number) - 1, "text": rest}, item)
        last = max(self.correctable(item), default=-1)
        return self.check({"turn": last, "text": text}, item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        if not isinstance(value, Mapping):
            raise InvalidAnswer(f"expected a mapping with `turn` and `text`, got {value!r}")
        turn, allowed = value.get("turn"), self.correctable(item)
        if isinstance(turn, bool) or turn not in allowed:
            choices = ", ".join(map(str, allowed)) or "none"
            raise InvalidAnswer(f"expected a turn that may be corrected ({choices}), got {turn!r}")
        return {"turn": int(turn), "text": normalize_text(value.get("text"))}

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        turns = self.turns(item)
        return {"messages": [*turns[: value["turn"]], {**turns[value["turn"]], "content": value["text"]}]}

    def to_comparable(self, value: AnswerValue, item: QuestionItem) -> str | float:
        return f"{value['turn']}: {value['text']}"
