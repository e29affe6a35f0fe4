"""Question for the faults of a text and their spans."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.annotation.question import AnswerValue, InvalidAnswer, QuestionItem, RatingQuestion
from luthier.annotation.spans import find_span

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level

_TYPED = re.compile(r"\s*(?P<severity>minor|major)\s+\"(?P<text>[^\"]+)\"\s*(?:[-:]\s*(?P<comment>[^;]*))?")
_WORD = re.compile(r"\w+")


class FaultsQuestion(RatingQuestion):
    """Faults marked in one answer with a comment each; its points are minus the weighed faults in a hundred words.

    The weights of minor and major faults are those of MQM's error typology (Lommel et al. 2014; Freitag et al. 2021).
    """

    kind: Literal["faults"] = "faults"
    widget: ClassVar[str] = "faults"
    level: ClassVar[Level] = "interval"

    question: str = "What is wrong in this answer?"
    """What people are asked."""
    minor: float = Field(default=1.0, gt=0)
    """What a minor fault costs."""
    major: float = Field(default=5.0, gt=0)
    """What a major fault costs."""
    max: float = Field(default=25.0, gt=0)
    """The most that an answer can lose in a hundred words."""

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return 'ok, or faults such as: major "the wrong words": why; minor "others": why'

    @property
    def bounds(self) -> tuple[float, float]:
        return -self.max, 0.0

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        if text.strip().lower() in ("ok", "none", "0"):
            return []
        found: list[dict[str, Any]] = []
        for part in (entry for entry in text.split(";") if entry.strip()):
            matched = _TYPED.fullmatch(part.rstrip())
            if matched is None:
                raise InvalidAnswer(f"expected {self.legend}; got {part.strip()!r}")
            found.append({name: value.strip() for name, value in matched.groupdict().items() if value})
        if not found:
            raise InvalidAnswer(f"expected {self.legend}; got nothing")
        return self.check(found, item)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        if not isinstance(value, list):
            raise InvalidAnswer(f"expected a list of faults, got {value!r}")
        return [self._fault(entry, item) for entry in value]

    def _fault(self, one: Any, item: QuestionItem) -> dict[str, Any]:
        if not isinstance(one, dict) or one.get("severity") not in ("minor", "major"):
            raise InvalidAnswer(f"expected a fault with severity minor or major, got {one!r}")
        kept = {**find_span(one, item, "a fault"), "severity": one["severity"]}
        return {**kept, "comment": str(one["comment"])} if one.get("comment") else kept

    def points(self, value: AnswerValue, item: QuestionItem) -> tuple[float, ...]:
        lost = sum(self.major if entry["severity"] == "major" else self.minor for entry in value)
        words = max(1, len(_WORD.findall(item.text)))
        return (-min(self.max, 100 * lost / words),)

    def passes(self, value: AnswerValue, item: QuestionItem, good: int | None) -> bool:
        return bool(value)

    def gold(self, good: int | None) -> AnswerValue:
        return [{"start": 0, "end": 1, "severity": "major"}]

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"rating": self.points(value, item)[0]}

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        return 1 - abs(self.points(one, item)[0] - self.points(other, item)[0]) / self.max
