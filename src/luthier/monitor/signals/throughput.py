"""How many requests come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.metrics.counts import CountGroup, Counts
from luthier.monitor.evaluator import estimate_rate
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan
from luthier.traces.record import Feedback, Trace


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
        """The same of some rows."""
        return {self.called: {"requests": len(rows)}}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        return {self.called: estimate_rate(WindowSpan(seconds, counts[self.called]["requests"]))}
