"""Questions that compare answers: a pair, or a ranking of several."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.annotation.question import (
    AnswerShortcut,
    AnswerValue,
    InvalidAnswer,
    Question,
    QuestionItem,
    RatingQuestion,
)

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level

_TYPED = {"a": "A", "1": "A", "b": "B", "2": "B", "=": "tie", "t": "tie", "tie": "tie"}


class PairQuestion(RatingQuestion):
    """Two answers side by side: one is better, or neither. A preferred answer has 1 point, the other 0, a tie ½."""

    kind: Literal["pair"] = "pair"
    widget: ClassVar[str] = "pair"
    sides: ClassVar[int] = 2
    level: ClassVar[Level] = "nominal"

    question: str = "Which answer is better?"
    """What people are asked."""
    ties: bool = True
    """Whether they may say that neither is better."""

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return "a or b" + (", = for a tie" if self.ties else "")

    @property
    def keys(self) -> tuple[AnswerShortcut, ...]:
        both = (AnswerShortcut("a", "A", "A"), AnswerShortcut("b", "B", "B"))
        return (*both, AnswerShortcut("=", "neither", "tie")) if self.ties else both

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        return self.check(text, item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        found = _TYPED.get(str(value).strip().lower())
        if found is None or (found == "tie" and not self.ties):
            raise InvalidAnswer(f"expected {'A, B or tie' if self.ties else 'A or B'}, got {value!r}")
        return found

    def mirror(self, value: AnswerValue) -> AnswerValue:
        return {"A": "B", "B": "A"}.get(value, value)

    def points(self, value: AnswerValue, item: QuestionItem) -> tuple[float, ...]:
        first = {"A": 1.0, "B": 0.0, "tie": 0.5}[value]
        return first, 1 - first

    def passes(self, value: AnswerValue, item: QuestionItem, good: int | None) -> bool:
        return bool(value == "AB"[good or 0])

    def gold(self, good: int | None) -> AnswerValue:
        return "AB"[good or 0]

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        if value == "tie":
            return {}
        better = "AB".index(value)
        return {"chosen": item.answers[better], "rejected": item.answers[1 - better]}

    def to_comparable(self, value: AnswerValue, item: QuestionItem) -> str | float:
        return str(value)


class RankingQuestion(Question):
    """Several answers from the best to the worst; a model learns to prefer the best to the worst."""

    kind: Literal["ranking"] = "ranking"
    widget: ClassVar[str] = "ranking"
    sides: ClassVar[int] = 2
    level: ClassVar[Level] = "nominal"

    question: str = "In what order are these answers, the best one first?"
    """What people are asked."""

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return "the letters of all answers, the best one first, such as: b a c"

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        letters = text.upper().replace(">", " ").replace(",", " ").split()
        return self.check(list(letters[0]) if len(letters) == 1 else letters, item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        expected = list(ascii_uppercase[: len(item.answers)])
        if not isinstance(value, list | tuple) or sorted(map(str, value)) != expected:
            raise InvalidAnswer(f"expected {', '.join(expected)} in an order, got {value!r}")
        return list(value)

    def mirror(self, value: AnswerValue) -> AnswerValue:
        return [{"A": "B", "B": "A"}.get(letter, letter) for letter in value]

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        best, worst = (item.answers[ascii_uppercase.index(value[at])] for at in (0, -1))
        return {"chosen": best, "rejected": worst}

    def to_comparable(self, value: AnswerValue, item: QuestionItem) -> str | float:
        return " > ".join(value)

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        rank = {letter: at for at, letter in enumerate(other)}
        pairs = list(combinations(one, 2))
        return sum(rank[better] < rank[worse] for better, worse in pairs) / max(1, len(pairs))
