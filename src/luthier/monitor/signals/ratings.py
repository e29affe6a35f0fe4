"""What people think of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.metrics.counts import CountGroup, Counts
from luthier.monitor.counts import build_bin_group, count_in_bins, measure_mean
from luthier.monitor.evaluator import estimate_mean
from luthier.monitor.signal import Events, Signal, SignalRow, SignalValue, WindowSpan
from luthier.traces.record import Feedback, Trace

_QUARTERS = tuple(number / 4 for number in range(-4, 5))


class Ratings(Signal):
    """The mean rating, from -1 (bad) to 1 (good), of the answers that somebody rated; thumbs are -1 and 1.

    Few people rate, and those who are angry rate more often: hold it against itself over time. What reviewers say is
    the signal `reviewed`.
    """

    kind: Literal["rating"] = "rating"
    of: ClassVar[Events] = "feedback"
    usual: ClassVar[Window] = Window(events=100)

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        return None if feedback is None or feedback.role != "user" else feedback.rating

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        signal_value = estimate_mean([row.value for row in rows], span)
        return {self.called: signal_value._replace(low=max(-1.0, signal_value.low), high=min(1.0, signal_value.high))}

    def list_count_groups(self) -> Sequence[CountGroup]:
        """Ratings, rounded to quarters."""
        return [build_bin_group(self.called, _QUARTERS)]

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """The same of some rows."""
        return {self.called: count_in_bins((round(4 * row.value) / 4 for row in rows), _QUARTERS)}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        return {self.called: measure_mean(counts[self.called], _QUARTERS, exact=True)}
