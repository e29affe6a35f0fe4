"""Any metric of an evaluation, with later feedback as the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.metrics.counts import CountGroup, Counts
from luthier.metrics.metric import EvalPredictions, Metric, MetricResult
from luthier.monitor.counts import build_share_group, count_share, measure_share
from luthier.monitor.signal import Events, Signal, SignalRow, SignalValue, WindowSpan, answer_text
from luthier.traces.record import Feedback, Trace, match_label_spelling


class MetricSignal(Signal):
    """A metric (accuracy, macro_f1, rougeL, ece …) of answers against the labels or corrections that come later.

    They are joined with their requests by id, however late. A correction is given to an answer that was wrong, so that
    over corrections alone an accuracy is near 0: label requests that were chosen without a look at the answer. The
    number is called like the metric (`macro_f1`), and is computed by the same code as in an evaluation, so that a rule
    may hold it against the release's own report (`macro_f1 < report - 0.03`). With `metric: ece` it watches whether
    stated probabilities still mean what they say.
    """

    kind: Literal["metric"] = "metric"
    of: ClassVar[Events] = "feedback"
    usual: ClassVar[Window] = Window(events=200)

    metric: Metric
    """What is measured."""

    @model_validator(mode="after")
    def _can_be_had(self) -> MetricSignal:
        lacking = [*(self.metric.needs - {"label_scores"}), *self.metric.scored]
        if lacking:
            raise ValueError(f"{self.metric.kind} needs {', '.join(sorted(lacking))}, which requests do not have")
        return self

    @property
    def called(self) -> str:
        return self.name or self.metric.kind

    @property
    def whole(self) -> float:
        return self.metric.whole()

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        answer = answer_text(trace)
        if feedback is None or answer is None:
            return None
        right = feedback.label or feedback.correction or None
        if right is not None and (feedback.label or trace.scores):  # then a correction is a class, too
            right = match_label_spelling(trace, right)
        if right is None or (self.metric.needs and (trace.scores is None or len(trace.scores) < 2)):
            return None
        return answer, right, trace.scores

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        if not span.ends:
            value = self._value_of(rows)
            return {self.called: SignalValue(value, value, value, span.events)}
        score = self._score_of(rows)
        return {self.called: SignalValue(score.value, score.low, score.high, span.events)}

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        return [float(value) for value in self._score_of(rows).rows]

    def _score_of(self, rows: Sequence[SignalRow]) -> MetricResult:
        """The metric of rows with its interval, as an evaluation has it."""
        from luthier.metrics.metric import measure_all

        return measure_all([self.metric], self._answers(rows))[0]

    def _value_of(self, rows: Sequence[SignalRow]) -> float:
        from luthier.metrics.intervals import sum_rows

        return float(self.metric.value(sum_rows(self.metric.statistics(self._answers(rows))))[0])

    @staticmethod
    def _answers(rows: Sequence[SignalRow]) -> EvalPredictions:
        predictions, right, scores = zip(*(row.value for row in rows), strict=True)
        label_scores = None if any(score is None for score in scores) else scores
        return EvalPredictions.of(predictions, right, label_scores=label_scores)

    def list_count_groups(self) -> Sequence[CountGroup]:
        """Answers that are right, and those that are not, where the metric is their share."""
        return [build_share_group(self.called)] if self.metric.proportion else []

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """Return the counts of some rows."""
        return {self.called: count_share(round(value) for value in self.each(rows) or ())} if rows else {}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The numbers of bins."""
        return {self.called: measure_share(counts[self.called])}
