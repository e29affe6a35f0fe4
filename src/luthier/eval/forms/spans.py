"""What is wrong in one answer, and where."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.eval.form import InvalidRatingValue, RatingForm, Value

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level

_TYPED = re.compile(r"\s*(?P<severity>minor|major)\s+\"(?P<text>[^\"]+)\"\s*(?:[-:]\s*(?P<comment>[^;]*))?")
_WORD = re.compile(r"\w+")


class ErrorSpansForm(RatingForm):
    """Faults marked in one answer with a comment each; its points are minus the weighed faults in a hundred words.

    The weights of minor and major faults are those of MQM's error typology (Lommel et al. 2014; Freitag et al. 2021).
    """

    kind: Literal["spans"] = "spans"
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

    def typed(self, text: str) -> Value:
        if text.strip().lower() in ("ok", "none", "0"):
            return []
        found: list[dict[str, Any]] = []
        for part in (one for one in text.split(";") if one.strip()):
            matched = _TYPED.fullmatch(part.rstrip())
            if matched is None:
                raise InvalidRatingValue(f"expected {self.legend}; got {part.strip()!r}")
            kept = {name: value.strip() for name, value in matched.groupdict().items() if value}
            found.append(kept)
        if not found:
            raise InvalidRatingValue(f"expected {self.legend}; got nothing")
        return found

    def check(self, value: Value, answers: tuple[str, ...]) -> Value:
        if not isinstance(value, list):
            raise InvalidRatingValue(f"expected a list of faults, got {value!r}")
        return [self._fault(one, answers[0]) for one in value]

    def _fault(self, one: Any, answer: str) -> dict[str, Any]:
        """A fault with its place; given by its text, or by `start` and `end`."""
        if not isinstance(one, dict) or one.get("severity") not in ("minor", "major"):
            raise InvalidRatingValue(f"expected a fault with severity minor or major, got {one!r}")
        text = one.get("text")
        start = one.get("start", answer.find(text) if isinstance(text, str) else -1)
        end = one.get("end", start + len(text) if isinstance(text, str) else -1)
        whole = all(isinstance(at, int) and not isinstance(at, bool) for at in (start, end))
        if not whole or not 0 <= start < end <= len(answer):
            raise InvalidRatingValue(f"the answer has no place {text or (start, end)!r}")
        kept = {"start": start, "end": end, "text": answer[start:end], "severity": one["severity"]}
        return {**kept, "comment": str(one["comment"])} if one.get("comment") else kept

    def points(self, value: Value, answers: tuple[str, ...]) -> tuple[float, ...]:
        lost = sum(self.major if one["severity"] == "major" else self.minor for one in value)
        words = max(1, len(_WORD.findall(answers[0])))
        return (-min(self.max, 100 * lost / words),)

    def passes(self, value: Value, answers: tuple[str, ...], good: int | None) -> bool:
        return bool(value)
