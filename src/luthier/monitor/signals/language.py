"""Signal of the language of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from luthier.core.context import RunContext
from luthier.core.errors import did_you_mean
from luthier.monitor.evaluator import estimate_share
from luthier.monitor.signal import (
    Signal,
    SignalRow,
    SignalState,
    SignalValue,
    WindowSpan,
    answer_text,
    question_text,
)
from luthier.traces.record import Feedback, Trace

_SHORTEST_CHARS = 20
_AT_ONCE = 256


class LanguageSignal(Signal):
    """The part of answers in a language that was not wanted; texts too short to tell stay out."""

    kind: Literal["language"] = "language"
    languages: tuple[str, ...] = ()
    """ISO codes that answers may be in; by default, each must be in the language of its question."""
    confidence: float = Field(default=0.8, ge=0, le=1)
    """How sure the language must be for an answer to count."""

    @field_validator("languages")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from luthier.lang.detect import LANGUAGES

        for code in value:
            if code not in LANGUAGES:
                raise ValueError(f"language {code!r} is unknown; {did_you_mean(code, LANGUAGES)}")
        return value

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def open(self, folder: Path, context: RunContext) -> SignalState:
        """Texts are looked at many at a time."""
        return _Open(self)

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        raise NotImplementedError("languages are told through `open`")

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        raise NotImplementedError("languages are told through `open`")


class _Open:
    """Answers and their languages: a cell holds texts first, and then whether their language was not wanted."""

    def __init__(self, signal: LanguageSignal) -> None:
        self._signal = signal
        self._waiting: list[list[Any]] = []

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        text = answer_text(trace)
        if text is None:
            return None
        cell: list[Any] = [text] if self._signal.languages else [text, question_text(trace)]
        self._waiting.append(cell)
        if len(self._waiting) >= _AT_ONCE:
            self._tell()
        return cell

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        self._tell()
        sure = [row._replace(value=row.value[0]) for row in rows if row.value[0] is not None]
        return {self._signal.called: estimate_share(sure, WindowSpan(span.seconds, len(sure)))} if sure else {}

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        self._tell()
        return [row.value[0] or 0.0 for row in rows]

    def explain(self, rows: Sequence[SignalRow]) -> str:
        return ""

    def _tell(self) -> None:
        from luthier.lang.detect import UNKNOWN, identify_languages

        texts = [text for cell in self._waiting for text in cell]
        confidence = self._signal.confidence
        codes = iter(
            guess.code for guess in identify_languages(texts, min_chars=_SHORTEST_CHARS, confidence=confidence)
        )
        for cell in self._waiting:
            first, *others = [next(codes) for _ in cell]
            unsure = UNKNOWN in (first, *others)
            cell[:] = [None if unsure else float(first not in (self._signal.languages or others))]
        self._waiting.clear()
