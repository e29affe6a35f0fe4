"""A form says what people are asked about answers, what they may say, and how many points that gives each answer."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.core.component import Component

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level

Value = Any
"""What somebody said, as plain JSON: a letter, a number, a mapping or a list."""


class InvalidRatingValue(ValueError):
    """A rating value that the form does not accept."""


class RatingForm(Component):
    """A form of blind human rating: of a pair of answers or of one answer."""

    role: ClassVar[str] = "form"
    home: ClassVar[str] = "luthier.eval.forms"

    sides: ClassVar[int] = 1
    """Answers shown at once: 2 for a choice between them."""
    level: ClassVar[Level]
    """How far apart two judgments are, for agreement."""

    @property
    @abstractmethod
    def question_text(self) -> str:
        """The question, as people read it."""

    @property
    @abstractmethod
    def legend(self) -> str:
        """What may be typed, in one line."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The fewest and most points."""

    @abstractmethod
    def typed(self, text: str) -> Value:
        """What was typed, as a value; `InvalidRatingValue` when it says nothing."""

    @abstractmethod
    def check(self, value: Value, answers: tuple[str, ...]) -> Value:
        """The value as it is kept; `InvalidRatingValue` when the form does not know it."""

    @abstractmethod
    def points(self, value: Value, answers: tuple[str, ...]) -> tuple[float, ...]:
        """The points of each answer shown."""

    @abstractmethod
    def passes(self, value: Value, answers: tuple[str, ...], good: int | None) -> bool:
        """Whether a judgment of a planted item shows that it was read.

        `good` is the place of the good answer among two; with one answer shown, which is a wrong one, it is None.
        """

    def to_comparable(self, value: Value, answers: tuple[str, ...], models: tuple[str, ...]) -> str | float:
        """The judgment in a form in which two people's can be compared, whatever the order they saw."""
        return self.points(value, answers)[0]
