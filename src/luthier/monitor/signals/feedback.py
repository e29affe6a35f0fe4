"""Signals of human feedback: ratings of users, and the estimate from reviewed requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.metrics.counts import CountGroup, Counts
from luthier.metrics.sampling import SampledItem, estimate_weighted_share
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
        """Return the counts of some rows."""
        return {self.called: count_in_bins((round(4 * row.value) / 4 for row in rows), _QUARTERS)}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        return {self.called: measure_mean(counts[self.called], _QUARTERS, exact=True)}


class Reviewed(Signal):
    """The share of right answers as reviewers find it, or of one type of failure; unbiased for all requests.

    A review queue draws requests with known chances (`luthier review`): what is doubtful more often than the rest. Each
    verdict counts for as many requests as its own stands for, one divided by its chance. This holds where reviewers
    take what was drawn in an order that has nothing to do with what they find, as a queue deals it; verdicts of
    requests that no queue drew are left out. `luthier review results` knows what is still to be reviewed, and weighs
    by that, too.
    """

    kind: Literal["reviewed"] = "reviewed"
    of: ClassVar[Events] = "feedback"
    usual: ClassVar[Window] = Window(events=200)

    failure: str = Field(default="", max_length=100)
    """The type of failure whose share it is, as reviewers call it; left out, the share of right answers."""

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        if feedback is None or feedback.probability is None or not feedback.rating:
            return None
        value = feedback.rating > 0 if not self.failure else self.failure in feedback.types
        return float(value), feedback.probability, trace.user or ""

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        latest = {row.trace: row.value for row in rows}  # of several reviewers, whoever decided last
        share_estimate = estimate_weighted_share(
            SampledItem(probability, value, cluster=user) for value, probability, user in latest.values()
        )
        return (
            {}
            if share_estimate is None
            else {self.called: SignalValue(share_estimate.value, share_estimate.low, share_estimate.high, span.events)}
        )

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        """Return each verdict's value."""
        return [float(row.value[0]) for row in rows]
