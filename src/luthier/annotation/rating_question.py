"""Questions whose answers are points: what human evaluation asks of models' answers."""

from __future__ import annotations

from abc import abstractmethod

from luthier.annotation.question import AnswerValue, InvalidAnswer, Question, QuestionItem


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
