"""In what order several answers stand."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.annotation.question import AnswerValue, InvalidAnswer, Question, QuestionItem

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level


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
