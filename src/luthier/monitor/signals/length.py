"""How long answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from luthier.core.context import RunContext
from luthier.metrics.counts import CountGroup, Counts, list_bins
from luthier.monitor.counts import (
    build_bin_group,
    build_share_group,
    count_in_bins,
    count_share,
    measure_mean,
    measure_quantile,
    measure_share,
)
from luthier.monitor.evaluator import estimate_mean, estimate_quantile
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan, answer_text
from luthier.traces.record import Feedback, Trace


class LengthSignal(Signal):
    """Words of an answer: their mean and median, and the part of the answers that stopped at the limit of tokens."""

    kind: Literal["length"] = "length"

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.{part}" for part in ("mean", "median", "cut")]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        text = answer_text(trace)
        return None if text is None else (len(text.split()), trace.finish_reason == "length")

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        from luthier.metrics.intervals import wilson_interval

        words, cut = zip(*(row.value for row in rows), strict=True)
        part = SignalValue(sum(cut) / len(cut), *wilson_interval(sum(cut), len(cut)), span.events)
        return dict(
            zip(
                self.numbers(),
                (estimate_mean(words, span), estimate_quantile(sorted(words), 0.5, span), part),
                strict=True,
            )
        )

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        return [float(row.value[0]) for row in rows]

    def list_count_groups(self) -> Sequence[CountGroup]:
        """Answers by their words, and those that stopped at the limit."""
        return [build_bin_group(f"{self.called}/words", list_bins()), build_share_group(f"{self.called}/cut")]

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """The same of some rows."""
        return {
            f"{self.called}/words": count_in_bins((row.value[0] for row in rows), list_bins()),
            f"{self.called}/cut": count_share(row.value[1] for row in rows),
        }

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        words, ends = counts[f"{self.called}/words"], list_bins()
        found = (
            measure_mean(words, ends),
            measure_quantile(words, ends, 0.5),
            measure_share(counts[f"{self.called}/cut"]),
        )
        return dict(zip(self.numbers(), found, strict=True))
