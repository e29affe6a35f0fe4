"""Which language a row is written in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.core.errors import did_you_mean
from luthier.data.operator import Column, Drop, Outcome, Reads, RowOperator, Suggestion
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.data.profile import Profile

_CODES = """
ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr
fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko
ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru
rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue
zh zu
"""
LANGUAGES = frozenset(_CODES.split())
"""ISO 639 codes that the identifier knows."""
UNKNOWN = "und"
_LOOKED_AT_CHARS = 300
"""The beginning of a text tells its language; more would cost time and change nothing."""


class Language(RowOperator):
    """Note each row's language, and keep only wanted ones.

    Naive Bayes over byte n-grams (Lui and Baldwin 2012, as py3langid brings it). Texts that are too short, or that
    fit several languages, are `und` (undetermined) and are never dropped.
    """

    kind: Literal["language"] = "language"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 30
    writes: ClassVar[dict[str, Column]] = {"language": "text", "confidence": "number"}

    keep: tuple[str, ...] | None = None
    """Languages to keep, as ISO 639 codes (`[en, de]`); all by default."""
    of: Literal["prompt", "answer", "both"] = "prompt"
    """Whose language counts: what the user wrote, the answer, or both together."""
    min_chars: int = Field(default=20, ge=1)
    """Texts with fewer characters are `und`."""
    confidence: float = Field(default=0.5, ge=0, le=1)
    """Below this probability the language is `und`."""

    @field_validator("keep")
    @classmethod
    def _known_codes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for code in value or ():
            if code not in LANGUAGES:
                raise ValueError(f"language {code!r} is unknown; {did_you_mean(code, LANGUAGES)}")
        return value

    def apply(self, rows: Sequence[Row]) -> Outcome:
        """Identify every row's language; drop those that are not wanted."""
        found = [identify(self._text(row), self.min_chars, self.confidence) for row in rows]
        columns: dict[str, Sequence[Any]] = {
            "language": [code for code, _ in found],
            "confidence": [sure for _, sure in found],
        }
        outcome = Outcome(attributes=columns)
        for place, (code, _) in enumerate(found):
            if self.keep is not None and code not in (*self.keep, UNKNOWN):
                outcome.drops[place] = Drop(f"language {code}")
        return outcome

    def _text(self, row: Row) -> str:
        prompt = row.prompt if self.of != "answer" else ""
        return f"{prompt}\n{row.answer}" if self.of != "prompt" else prompt

    @classmethod
    def suggest(cls, profile: Profile) -> Suggestion | None:
        """Worth it when the sample holds several languages."""
        seen = {code: count for code, count in profile.languages.items() if code != UNKNOWN}
        common = {code: count for code, count in seen.items() if count * 100 >= profile.looked_at}
        if len(common) < 2:
            return None
        shown = ", ".join(
            f"{code} {count}" for code, count in sorted(common.items(), key=lambda one: (-one[1], one[0]))
        )
        return Suggestion(
            {}, f"the rows are in several languages ({shown} of {profile.looked_at}); add `keep: [en]` to keep one"
        )


def identify(text: str, min_chars: int = 20, confidence: float = 0.5) -> tuple[str, float]:
    """The language of a text as ISO code, or `und`, and the probability."""
    text = text[:_LOOKED_AT_CHARS].strip()
    if len(text) < min_chars or not any(char.isalpha() for char in text):
        return UNKNOWN, 0.0
    code, sure = _identifier().classify(text)
    sure = round(float(sure), 3)
    return (code if sure >= confidence and code in LANGUAGES else UNKNOWN), sure


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
