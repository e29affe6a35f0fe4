"""Any metric of an evaluation, on what people say later was right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from luthier.core.expressions import Window
from luthier.metrics.answers import Answers
from luthier.metrics.metric import Metric, Score
from luthier.monitor.signal import Events, Reading, Row, Signal, Span, answer_text
from luthier.traffic.record import Feedback, Trace, label_meant


class Measured(Signal):
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
    def _can_be_had(self) -> Measured:
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
        said = answer_text(trace)
        if feedback is None or said is None:
            return None
        right = feedback.label if feedback.label is not None else feedback.correction
        if right is not None and (feedback.label is not None or trace.scores):  # then a correction is a class, too
            right = label_meant(trace, right)
        if right is None or (self.metric.needs and (trace.scores is None or len(trace.scores) < 2)):
            return None
        return said, right, trace.scores

    def measure(self, rows: Sequence[Row], span: Span) -> Mapping[str, Reading]:
        if not span.ends:
            value = self._value_of(rows)
            return {self.called: Reading(value, value, value, span.events)}
        score = self._score_of(rows)
        return {self.called: Reading(score.value, score.low, score.high, span.events)}

    def each(self, rows: Sequence[Row]) -> Sequence[float] | None:
        return [float(value) for value in self._score_of(rows).rows]

    def _score_of(self, rows: Sequence[Row]) -> Score:
        """The metric of rows with its interval, as an evaluation has it."""
        from luthier.metrics.metric import measure_all

        return measure_all([self.metric], self._answers(rows))[0]

    def _value_of(self, rows: Sequence[Row]) -> float:
        from luthier.metrics.resample import totals

        return float(self.metric.value(totals(self.metric.statistics(self._answers(rows))))[0])

    @staticmethod
    def _answers(rows: Sequence[Row]) -> Answers:
        said, right, scores = zip(*(row.value for row in rows), strict=True)
        told = None if any(one is None for one in scores) else scores
        return Answers.of(said, right, label_scores=told)
