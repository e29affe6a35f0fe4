"""Questions to annotators: the role, and the bases of questions with labels and with points."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from luthier.annotation.media import list_message_media
from luthier.core.component import Component, add_field_descriptions

if TYPE_CHECKING:
    from luthier.chat.messages import Media
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

    @property
    def media(self) -> tuple[Media, ...]:
        """The pictures and sounds of all messages, in order."""
        return tuple(medium for message in self.messages for medium in list_message_media(message))


class AnswerShortcut(NamedTuple):
    """A keyboard shortcut, and the answer that it gives."""

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
    def keys(self) -> tuple[AnswerShortcut, ...]:
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

    def mirror(self, value: AnswerValue) -> AnswerValue:
        """The same answer where two candidate answers are shown in the other order."""
        return value

    def to_comparable(self, value: AnswerValue, item: QuestionItem) -> str | float:
        """The answer in a form in which two people's can be compared."""
        return str(value)

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        """How far two people say the same of an item, from 0 to 1: spans by F1, labels by Jaccard."""
        return float(self.to_comparable(one, item) == self.to_comparable(other, item))


LABEL_KEYS = "123456789abcdeghijklmnoprtvwxyz"
"""Keys of labels in their order; without f, q, s and u, which flag, leave, skip and undo."""


class LabelOption(BaseModel):
    """One label that people may give."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    name: str = Field(min_length=1, max_length=200, pattern=r"^\S(.*\S)?$")
    """The label as it is trained; the levels of a taxonomy are parted by ` / `."""
    about: str = ""
    """When it applies."""
    key: str = Field(default="", pattern=f"^[{LABEL_KEYS}]?$")
    """The key that gives it; left out, the next free one of 1 to 9 and a to z."""


def _name_alone(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


LabelOptions = Annotated[
    tuple[Annotated[LabelOption, BeforeValidator(_name_alone, json_schema_input_type=str | LabelOption)], ...],
    Field(min_length=1, max_length=1000),
]


class LabelQuestion(Question):
    """A question about labels; it is between the role and its kinds."""

    labels: LabelOptions
    """The labels: their names, or each with what it means and its key."""

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[LabelOption, ...]) -> tuple[LabelOption, ...]:
        for what, values in (
            ("label", [label.name for label in labels]),
            ("key", [label.key for label in labels if label.key]),
        ):
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise ValueError(f"{what} {twice!r} stands twice")
        return labels

    @cached_property
    def key_of(self) -> Mapping[str, str]:
        """The key of each label that has one, by the label's name."""
        free = iter([key for key in LABEL_KEYS if key not in {label.key for label in self.labels}])
        return {label.name: key for label in self.labels if (key := label.key or next(free, ""))}

    @property
    def key_legend(self) -> str:
        """The keys with their labels, and the labels that have none."""
        return ", ".join(f"{self.key_of.get(label.name, '')} {label.name}".strip() for label in self.labels)

    def find_label(self, typed: str) -> str:
        """The label that was typed: its name, in capitals or not, or its key."""
        typed_name = typed.strip()
        names = [label.name for label in self.labels]
        for test in (
            lambda name: name == typed_name,
            lambda name: name.casefold() == typed_name.casefold(),
            lambda name: self.key_of.get(name) == typed_name.lower(),
        ):
            if found := next((name for name in names if test(name)), None):
                return found
        raise InvalidAnswer(f"expected one of {self.key_legend}; got {typed_name!r}")

    def check_label(self, value: AnswerValue) -> str:
        """A label by its exact name, as it stands in values."""
        if isinstance(value, str) and any(label.name == value.strip() for label in self.labels):
            return value.strip()
        names = ", ".join(label.name for label in self.labels[:20])
        raise InvalidAnswer(f"expected one of {names}{', …' if len(self.labels) > 20 else ''}; got {value!r}")


class RatingQuestion(Question):
    """A question that gives points to each answer shown; it is between the role and its kinds."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The fewest and most points."""

    @abstractmethod
    def points(self, value: AnswerValue, item: QuestionItem) -> tuple[float, ...]:
        """The points of each answer shown; of the item where none is shown."""

    @abstractmethod
    def passes(self, value: AnswerValue, item: QuestionItem, good: int | None) -> bool:
        """Whether an answer about a planted item shows that it was read.

        `good` is the place of the good answer among two; with one answer shown, which is a wrong one, it is None.
        """

    @abstractmethod
    def gold(self, good: int | None) -> AnswerValue:
        """An answer about a planted item that passes."""

    def to_comparable(self, value: AnswerValue, item: QuestionItem) -> str | float:
        return self.points(value, item)[0]


def parse_whole_number(value: AnswerValue, low: int, high: int) -> int:
    """A whole number within bounds, also when it came as text or as 3.0; `InvalidAnswer` otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or number != round(number, 0) or not low <= number <= high:
        raise InvalidAnswer(f"expected a whole number from {low} to {high}, got {value!r}")
    return int(number)
