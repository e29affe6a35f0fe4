"""Signal of unknown words: the share of words that no training row has."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.core.files import write_atomically
from luthier.monitor.evaluator import estimate_mean
from luthier.monitor.signal import (
    Signal,
    SignalRow,
    SignalState,
    SignalValue,
    TrainingSample,
    WindowSpan,
    question_text,
)
from luthier.traces.record import Feedback, Trace

_FILE = "words.json"
_WORD = re.compile(r"\w+")


class UnknownWords(Signal):
    """The part of a request's words that stand in no training row, on average, and how far that is from what is usual.

    What is usual is measured on training rows that the list of words was not made from. `unknown_words.change` is the
    difference in standard deviations of a row (Glass's delta), so that 0.2 is little and 0.8 much (Cohen 1988).
    """

    kind: Literal["unknown_words"] = "unknown_words"
    usual: ClassVar[Window] = Window(events=300)
    learns: ClassVar[bool] = True

    max: int = Field(default=50_000, ge=100)
    """At most so many words are remembered, the most frequent."""

    def numbers(self) -> Sequence[str]:
        return [self.called, f"{self.called}.change"]

    def learn(self, training: TrainingSample, folder: Path) -> None:
        """The words of half the rows, and how many of the other half's words they lack."""
        from luthier.monitor.windows import hash_to_unit_interval

        known: list[str] = []
        held: list[str] = []
        for text in training.prompts:
            (known if hash_to_unit_interval(f"{training.seed} {text}") < 0.5 else held).append(text)
        counts = Counter(word for text in known for word in _words(text))
        words = [word for word, _ in sorted(counts.items(), key=lambda count: (-count[1], count[0]))[: self.max]]
        parts = [_unknown(text, frozenset(words)) for text in held if _words(text)]
        middle = math.fsum(parts) / max(1, len(parts))
        spread = math.sqrt(math.fsum((part - middle) ** 2 for part in parts) / max(1, len(parts) - 1))
        statistics = {"words": sorted(words), "mean": round(middle, 9), "spread": round(spread, 9)}
        write_atomically(folder / _FILE, json.dumps(statistics, ensure_ascii=False).encode())

    def open(self, folder: Path, context: RunContext) -> SignalState:
        """The words are known."""
        return _Open(self, json.loads((folder / _FILE).read_bytes()))

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        raise NotImplementedError("unknown words are counted through `open`")

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        raise NotImplementedError("unknown words are counted through `open`")


class _Open:
    def __init__(self, signal: UnknownWords, reference: Any) -> None:
        self._signal = signal
        self._words = frozenset(reference["words"])
        self._mean, self._spread = float(reference["mean"]), float(reference["spread"])

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        text = question_text(trace)
        return _unknown(text, self._words) if _words(text) else None

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        signal_value = estimate_mean([row.value for row in rows], span)
        part = signal_value._replace(low=max(0.0, signal_value.low), high=min(1.0, signal_value.high))
        scale = max(self._spread, 1e-6)
        value, low, high = ((end - self._mean) / scale for end in part[:3])
        return dict(zip(self._signal.numbers(), (part, SignalValue(value, low, high, part.events)), strict=True))

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        return [float(row.value) for row in rows]

    def explain(self, rows: Sequence[SignalRow]) -> str:
        return f"in training rows {self._mean:.1%} of the words were unknown"


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _unknown(text: str, known: frozenset[str]) -> float:
    words = _words(text)
    return sum(word not in known for word in words) / len(words)
