"""How long requests take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from luthier.core.context import RunContext
from luthier.metrics.counts import CountGroup, Counts
from luthier.monitor.counts import build_bin_group, count_in_bins, list_second_bins, measure_quantile
from luthier.monitor.evaluator import estimate_quantile
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan
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
        """The same of some rows."""
        return {self.called: count_in_bins((row.value for row in rows), list_second_bins())}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        return {
            name: measure_quantile(counts[self.called], list_second_bins(), part)
            for name, part in zip(self.numbers(), self.quantiles, strict=True)
        }
