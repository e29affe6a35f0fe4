"""How many requests fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from luthier.core.expressions import Window
from luthier.monitor.evaluator import estimate_share
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan
from luthier.traces.record import Feedback, Trace


class ErrorRateSignal(Signal):
    """The part of requests that ended in a fault of the service: a status of 500 or more, or an answer broken off.

    A request that was wrong itself (status 400 to 499) is no fault of the service; `refused` counts it as one, which is
    right where the caller is a program of yours.
    """

    kind: Literal["error_rate"] = "error_rate"
    shares: ClassVar[bool] = True
    usual: ClassVar[Window] = Window(seconds=300)

    refused: bool = False
    """Whether requests that were refused as wrong count too."""

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        least = 400 if self.refused else 500
        return float(trace.status >= least or (trace.finish_reason == "error" and trace.status < 400))

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        return {self.called: estimate_share(rows, span)}
