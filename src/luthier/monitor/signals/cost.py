"""What requests cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from luthier.monitor.evaluator import estimate_mean
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan
from luthier.traces.record import Feedback, Trace


class CostSignal(Signal):
    """What a request costs on average, what a thousand do, and what the whole window did, at your prices for tokens."""

    kind: Literal["cost"] = "cost"
    prompt: float = Field(ge=0)
    """Price of a million prompt tokens, in your currency."""
    answer: float = Field(ge=0)
    """Price of a million tokens written."""
    cached: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens found in the cache; that of the others where none is given."""

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.{part}" for part in ("request", "thousand", "window")]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        found = min(trace.cached_tokens, trace.prompt_tokens)
        cached = self.prompt if self.cached is None else self.cached
        paid = (trace.prompt_tokens - found) * self.prompt + found * cached + trace.completion_tokens * self.answer
        return paid / 1e6

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        one = estimate_mean([row.value for row in rows], span)
        scaled = [SignalValue(one.value * by, one.low * by, one.high * by, one.events) for by in (1, 1000, span.events)]
        return dict(zip(self.numbers(), scaled, strict=True))
