"""Which of two answers is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.eval.form import InvalidRatingValue, RatingForm, Value

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level

_KEYS = {"a": "A", "1": "A", "b": "B", "2": "B", "=": "tie", "t": "tie", "tie": "tie"}


class Pairwise(RatingForm):
    """Two answers side by side: one is better, or neither. A preferred answer has 1 point, the other 0, a tie ½."""

    kind: Literal["pairwise"] = "pairwise"
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
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def typed(self, text: str) -> Value:
        return self.check(text, ("", ""))

    def check(self, value: Value, answers: tuple[str, ...]) -> Value:
        found = _KEYS.get(str(value).strip().lower())
        if found is None or (found == "tie" and not self.ties):
            raise InvalidRatingValue(f"expected {'A, B or tie' if self.ties else 'A or B'}, got {value!r}")
        return found

    def points(self, value: Value, answers: tuple[str, ...]) -> tuple[float, ...]:
        first = {"A": 1.0, "B": 0.0, "tie": 0.5}[value]
        return first, 1 - first

    def passes(self, value: Value, answers: tuple[str, ...], good: int | None) -> bool:
        return bool(value == "AB"[good or 0])

    def to_comparable(self, value: Value, answers: tuple[str, ...], models: tuple[str, ...]) -> str | float:
        return "tie" if value == "tie" else models["AB".index(value)]
