"""Whether a classifier's stated probabilities still come true as they did when it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.expressions import Window
from luthier.monitor.signal import Events, Eye, Place, Reading, Row, Signal, Span, Training, answer_text
from luthier.traffic.record import Feedback, Trace, label_meant


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

    def learn(self, training: Training, folder: Path) -> None:
        """What came true of the report's rows."""
        from luthier.monitor.held import keep

        rows = [_missed(row.probabilities, row.said, right=row.said == row.right) for row in training.measured]
        keep([row for row in rows if row is not None], training, folder, self.kind)

    def open(self, folder: Path, place: Place) -> Eye:
        """The evidence at its beginning."""
        from luthier.monitor.held import Held

        return Held(self.numbers(), self.row, folder, points=self.labels, seed=place.seed)

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.monitor.held import stated

        found, said = stated(trace), answer_text(trace)
        if feedback is None or feedback.label is None or found is None or said is None:
            return None
        return _missed(found, said, right=said == label_meant(trace, feedback.label))

    def measure(self, rows: Sequence[Row], span: Span) -> Mapping[str, Reading]:
        raise NotImplementedError("calibration is measured through `open`")


def _missed(probabilities: Mapping[str, float], said: str, *, right: bool) -> tuple[float] | None:
    """What came true, less what was stated; None where the answer is none of the classes."""
    return (round(right - probabilities[said], 9),) if said in probabilities else None
