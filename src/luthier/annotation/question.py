"""A question says what people are asked about an item, what they may answer, and what a model learns from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from luthier.core.component import Component

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level

AnswerValue = Any
"""What somebody answered, as plain JSON: a text, a number, a mapping or a list."""


class InvalidAnswer(ValueError):
    """An answer that the question does not accept."""


class QuestionItem(NamedTuple):
    """What people see of an item."""

    messages: tuple[Mapping[str, Any], ...]
    """The conversation, as chat messages; a plain text is one user message."""
    answers: tuple[str, ...] = ()
    """Candidate answers that are shown: one to rate or correct, two to compare, several to rank."""

    @property
    def text(self) -> str:
        """What spans are marked in: the first candidate answer, or else the last message."""
        return self.answers[0] if self.answers else str(self.messages[-1].get("content") or "")


class AnswerKey(NamedTuple):
    """One key of the keyboard, and the answer that it gives."""

    key: str
    label: str
    value: AnswerValue


class Question(Component):
    """One question to people about an item."""

    role: ClassVar[str] = "question"
    home: ClassVar[str] = "luthier.annotation.questions"

    widget: ClassVar[str]
    """The name of the page's piece that asks it: `studio/templates/widgets/WIDGET.html.jinja`."""
    level: ClassVar[Level]
    """How far apart two answers are, for agreement."""
    sides: ClassVar[int] = 0
    """How many candidate answers must be shown at least: 2 for a choice between them; 0 where none is needed."""

    @property
    @abstractmethod
    def question_text(self) -> str:
        """The question, as people read it."""

    @property
    @abstractmethod
    def legend(self) -> str:
        """What may be typed on a terminal, in one line."""

    @property
    def keys(self) -> tuple[AnswerKey, ...]:
        """The keys that answer at once; none where an answer is more than one key."""
        return ()

    @abstractmethod
    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        """What was typed on a terminal, as a value; `InvalidAnswer` when it says nothing."""

    @abstractmethod
    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        """The value as it is kept; `InvalidAnswer` when the question does not know it."""

    @abstractmethod
    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        """The columns of a training row that this answer gives: `label`, `labels`, `spans`, `chosen` and `rejected`,
        `rating`, `answer`, `messages`."""

    def to_comparable(self, value: AnswerValue, item: QuestionItem) -> str | float:
        """The answer in a form in which two people's can be compared."""
        return str(value)

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        """How far two people say the same of an item, from 0 to 1: spans by F1, labels by Jaccard."""
        return float(self.to_comparable(one, item) == self.to_comparable(other, item))
