"""How many tokens requests take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from luthier.core.context import RunContext
from luthier.metrics.counts import CountGroup, Counts, list_bins
from luthier.monitor.counts import build_bin_group, count_in_bins, measure_mean
from luthier.monitor.evaluator import estimate_mean
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan
from luthier.traces.record import Feedback, Trace


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
        """The same of some rows."""
        columns = zip(*(row.value for row in rows), strict=True) if rows else [()] * len(self.numbers())
        return {name: count_in_bins(values, list_bins()) for name, values in zip(self.numbers(), columns, strict=True)}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        return {name: measure_mean(counts[name], list_bins()) for name in self.numbers()}
