"""Signals of a classifier's confidence: its drift from the test rows, and its calibration against feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.monitor.signal import (
    Events,
    Signal,
    SignalRow,
    SignalState,
    SignalValue,
    TrainingSample,
    WindowSpan,
    answer_text,
)
from luthier.traces.record import Feedback, Trace, match_label_spelling


class Confidence(Signal):
    """How sure a classifier is of its answers, against how sure it was of the held-out rows of its own report.

    It needs no labels. `confidence.evidence` is a power of ten, as that of `drift`: while answers are given as surely
    as in the report, it passes 2 within a round of `requests` with a chance of at most 1 in 100, however often one
    looks (a conformal test martingale over the likeliest class's probability and the entropy of all;
    `luthier.metrics.martingale`). `confidence.shift` is the size of the change: mean probability of the likeliest
    class, less that of the report. As long as probabilities mean what they say it is what to expect of accuracy
    (Guillory et al. 2021, "Predicting with confidence on unseen distributions"). Probabilities are compared as the
    evaluation had them, before the served model's calibration.
    """

    kind: Literal["confidence"] = "confidence"
    usual: ClassVar[Window] = Window(events=300)
    needs_report: ClassVar[bool] = True

    requests: int = Field(default=10_000, ge=100, le=1_000_000)
    """The length of a round, after which the evidence begins anew."""

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.evidence", f"{self.called}.shift"]

    def enough(self, number: str, spec: Window) -> int:
        """Evidence counts from the first request on."""
        return 1 if number.endswith(".evidence") else super().enough(number, spec)

    def learn(self, training: TrainingSample, folder: Path) -> None:
        """Store the model's confidence on the report's rows."""
        from luthier.monitor.baseline import compute_confidence, write_reference_numbers

        write_reference_numbers(
            [compute_confidence([*row.probabilities.values()]) for row in training.measured],
            training,
            folder,
            self.kind,
        )

    def open(self, folder: Path, context: RunContext) -> SignalState:
        """The evidence at its beginning."""
        from luthier.monitor.baseline import ReferenceSignalState

        return ReferenceSignalState(self.numbers(), self.row, folder, points=self.requests, seed=context.seed)

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.monitor.baseline import compute_confidence, undo_temperature

        found = undo_temperature(trace)
        return None if found is None else compute_confidence([*found.values()])

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        raise NotImplementedError("confidence is measured through `open`")


class Calibration(Signal):
    """How far what came true is from the probability that was stated, against the held-out rows of the model's report.

    It needs labels, however late (`confidence` needs none). Of each answer counts 1 if it was right, else 0, less the
    probability that the model gave it: on average 0 where probabilities mean what they say, negative where the model is
    too sure of itself. `calibration.shift` is the mean of it, less that of the report. `calibration.evidence` is a
    power of ten whose false alarms are bounded at any time, as that of `drift`: it passes 2 within a round of `labels`
    with a chance of at most 1 in 100 while nothing changes. How far probabilities are from what comes true, without a
    report, says `{kind: metric, metric: ece}`.
    """

    kind: Literal["calibration"] = "calibration"
    of: ClassVar[Events] = "feedback"
    usual: ClassVar[Window] = Window(events=200)
    needs_report: ClassVar[bool] = True

    labels: int = Field(default=10_000, ge=100, le=1_000_000)
    """The length of a round, after which the evidence begins anew."""

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.evidence", f"{self.called}.shift"]

    def enough(self, number: str, spec: Window) -> int:
        """Evidence counts from the first label on."""
        return 1 if number.endswith(".evidence") else super().enough(number, spec)

    def learn(self, training: TrainingSample, folder: Path) -> None:
        """Store the accuracy on the report's rows."""
        from luthier.monitor.baseline import write_reference_numbers

        rows = [
            _missed(row.probabilities, row.prediction, right=row.prediction == row.right) for row in training.measured
        ]
        write_reference_numbers([row for row in rows if row is not None], training, folder, self.kind)

    def open(self, folder: Path, context: RunContext) -> SignalState:
        """The evidence at its beginning."""
        from luthier.monitor.baseline import ReferenceSignalState

        return ReferenceSignalState(self.numbers(), self.row, folder, points=self.labels, seed=context.seed)

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.monitor.baseline import undo_temperature

        found, answer = undo_temperature(trace), answer_text(trace)
        if feedback is None or not feedback.label or found is None or answer is None:
            return None
        return _missed(found, answer, right=answer == match_label_spelling(trace, feedback.label))

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        raise NotImplementedError("calibration is measured through `open`")


def _missed(probabilities: Mapping[str, float], answer: str, *, right: bool) -> tuple[float] | None:
    """Return correctness minus the stated probability; None where the answer is not a class."""
    return (round(right - probabilities[answer], 9),) if answer in probabilities else None
