"""How many requests come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from luthier.core.expressions import Window
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
