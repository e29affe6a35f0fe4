"""Signals of operation: latency, throughput, tokens, cost and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.metrics.counts import CountGroup, Counts, list_bins
from luthier.monitor.counts import build_bin_group, count_in_bins, list_second_bins, measure_mean, measure_quantile
from luthier.monitor.evaluator import estimate_mean, estimate_quantile, estimate_rate
from luthier.monitor.signal import ShareSignal, Signal, SignalRow, SignalValue, WindowSpan
from luthier.traces.record import Feedback, Trace


class Latency(Signal):
    """Quantiles of seconds from a request to the end of its answer, or to its first token.

    `latency.p95` is the time within which 95 % of requests were answered. Requests that failed or were given up do not
    count: they would make a broken service look quick. An interval lies between two of the times (binomial ranks).
    """

    kind: Literal["latency"] = "latency"
    until: Literal["end", "first_token"] = "end"
    """What ends the time: the whole answer, or its first token, where the model streams."""
    quantiles: tuple[float, ...] = Field(default=(0.5, 0.95, 0.99), min_length=1)
    """Which parts of the requests are spoken of."""

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.p{100 * part:g}".replace(".", "_").replace("_p", ".p", 1) for part in self.quantiles]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        if trace.status >= 400 or trace.finish_reason in ("error", "cancelled"):
            return None
        return trace.latency_s if self.until == "end" else trace.first_token_s

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        ordered = sorted(row.value for row in rows)
        return {
            name: estimate_quantile(ordered, part, span)
            for name, part in zip(self.numbers(), self.quantiles, strict=True)
        }

    def list_count_groups(self) -> Sequence[CountGroup]:
        """Requests by their seconds."""
        return [build_bin_group(self.called, list_second_bins())]

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """Return the counts of some rows."""
        return {self.called: count_in_bins((row.value for row in rows), list_second_bins())}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        return {
            name: measure_quantile(counts[self.called], list_second_bins(), part)
            for name, part in zip(self.numbers(), self.quantiles, strict=True)
        }


class Throughput(Signal):
    """Requests in a second, whatever became of them; the interval is that of a Poisson count (Garwood 1936)."""

    kind: Literal["throughput"] = "throughput"
    usual: ClassVar[Window] = Window(seconds=300)

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        return 1.0

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        return {self.called: estimate_rate(span)}

    def list_count_groups(self) -> Sequence[CountGroup]:
        """Requests."""
        return [CountGroup(self.called, ("requests",))]

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """Return the counts of some rows."""
        return {self.called: {"requests": len(rows)}}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        return {self.called: estimate_rate(WindowSpan(seconds, counts[self.called]["requests"]))}


class TokensSignal(Signal):
    """Tokens of a request on average: of its answer, of its prompt, and those of the prompt that no cache held."""

    kind: Literal["tokens"] = "tokens"

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.{part}" for part in ("answer", "prompt", "computed")]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        return trace.completion_tokens, trace.prompt_tokens, max(0, trace.prompt_tokens - trace.cached_tokens)

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        columns = zip(*(row.value for row in rows), strict=True)
        return {name: estimate_mean(values, span) for name, values in zip(self.numbers(), columns, strict=True)}

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        return [float(row.value[0]) for row in rows]

    def list_count_groups(self) -> Sequence[CountGroup]:
        """Requests by their tokens."""
        return [build_bin_group(name, list_bins()) for name in self.numbers()]

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """Return the counts of some rows."""
        columns = zip(*(row.value for row in rows), strict=True) if rows else [()] * len(self.numbers())
        return {name: count_in_bins(values, list_bins()) for name, values in zip(self.numbers(), columns, strict=True)}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        return {name: measure_mean(counts[name], list_bins()) for name in self.numbers()}


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


class ErrorRateSignal(ShareSignal):
    """The part of requests that ended in a fault of the service: a status of 500 or more, or an answer broken off.

    A request that was wrong itself (status 400 to 499) is no fault of the service; `refused` counts it as one, which is
    right where the caller is a program of yours.
    """

    kind: Literal["error_rate"] = "error_rate"
    usual: ClassVar[Window] = Window(seconds=300)

    refused: bool = False
    """Whether requests that were refused as wrong count too."""

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        least = 400 if self.refused else 500
        return float(trace.status >= least or (trace.finish_reason == "error" and trace.status < 400))
