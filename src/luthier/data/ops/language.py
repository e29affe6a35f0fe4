"""Operator that detects the language of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.core.errors import did_you_mean
from luthier.core.messages import gettext_noop
from luthier.core.param_space import ParamDistribution
from luthier.data.operator import Column, Drop, OperatorResult, Reads, RowOperator, Suggestion
from luthier.data.row import Row
from luthier.lang.detect import LANGUAGES, UNKNOWN, identify_languages

if TYPE_CHECKING:
    from luthier.data.suggest.profile import SourceProfile


class LanguageOperator(RowOperator):
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
    confidence: float = Field(default=0.4, ge=0, le=1)
    """Below this probability the language is `und`."""
    among: tuple[str, ...] | None = Field(default=None, min_length=2)
    """The languages that can occur, when you know them: then neighbours (Portuguese and Galician; Croatian, Bosnian
    and Serbian) are not taken for each other. All by default."""

    @field_validator("keep", "among")
    @classmethod
    def _known_codes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for code in value or ():
            if code not in LANGUAGES:
                raise ValueError(f"language {code!r} is unknown; {did_you_mean(code, LANGUAGES)}")
        return value

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Identify every row's language; drop those that are not wanted."""
        texts = [self._text(row) for row in rows]
        language_guesses = identify_languages(
            texts, min_chars=self.min_chars, confidence=self.confidence, among=self.among
        )
        columns: dict[str, Sequence[Any]] = {
            "language": [code for code, _ in language_guesses],
            "confidence": [sure for _, sure in language_guesses],
        }
        outcome = OperatorResult(attributes=columns)
        for index, (code, _) in enumerate(language_guesses):
            if self.keep is not None and code not in (*self.keep, UNKNOWN):
                outcome.drops[index] = Drop(f"language {code}")
        return outcome

    def _text(self, row: Row) -> str:
        prompt = row.prompt if self.of != "answer" else ""
        return f"{prompt}\n{row.answer}" if self.of != "prompt" else prompt

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when the sample holds several languages."""
        language_counts = {code: count for code, count in profile.languages.items() if code != UNKNOWN}
        common = {
            code: count for code, count in language_counts.items() if count > 1 and count * 100 >= profile.looked_at
        }
        if len(common) < 2:
            return None
        ranked = sorted(common.items(), key=lambda entry: (-entry[1], entry[0]))
        shown = ", ".join(f"{code} {count}" for code, count in ranked)
        first, rows = ranked[0][0], profile.looked_at
        why = gettext_noop(f"the rows are in several languages ({shown} of {rows}); add `keep: [{first}]` to keep one")
        return Suggestion({}, why)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """How sure the language of a row must be, where only some are kept."""
        return {"confidence": ParamDistribution(0.2, 0.95)} if self.keep is not None else {}
