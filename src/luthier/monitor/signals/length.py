"""How long answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from luthier.monitor.estimate import mean, quantile
from luthier.monitor.signal import Reading, Row, Signal, Span, answer_text
from luthier.traffic.record import Feedback, Trace


class Length(Signal):
    """Words of an answer: their mean and median, and the part of the answers that stopped at the limit of tokens."""

    kind: Literal["length"] = "length"

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.{part}" for part in ("mean", "median", "cut")]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        text = answer_text(trace)
        return None if text is None else (len(text.split()), trace.finish == "length")

    def measure(self, rows: Sequence[Row], span: Span) -> Mapping[str, Reading]:
        from luthier.metrics.resample import wilson

        words, cut = zip(*(row.value for row in rows), strict=True)
        part = Reading(sum(cut) / len(cut), *wilson(sum(cut), len(cut)), span.events)
        return dict(zip(self.numbers(), (mean(words, span), quantile(sorted(words), 0.5, span), part), strict=True))

    def each(self, rows: Sequence[Row]) -> Sequence[float] | None:
        return [float(row.value[0]) for row in rows]
