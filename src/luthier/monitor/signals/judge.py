"""Signal of a judge model's score of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.core.scorer import Scorer, ScorerRow
from luthier.monitor.evaluator import estimate_mean
from luthier.monitor.signal import (
    Signal,
    SignalRow,
    SignalState,
    SignalValue,
    WindowSpan,
    answer_text,
    question_text,
)
from luthier.traces.record import Feedback, Trace


class JudgeSignal(Signal):
    """The mean score, from 0 to 1, that a judging model gives to a sample of the answers.

    The judge is the scorer `judge` of evaluations, with its settings; each verdict is paid for once and kept. Which
    answers are in the sample, their ids decide.
    """

    kind: Literal["judge"] = "judge"
    usual: ClassVar[Window] = Window(events=100)

    judge: Scorer = Field(default_factory=lambda: Scorer.parse("judge"))
    """Who judges: `{kind: judge, url: …, model: …, rubric: …}`."""
    share: float = Field(default=0.01, gt=0, le=1)
    """The part of the answers that is judged."""

    @field_validator("judge")
    @classmethod
    def _needs_no_reference(cls, value: Scorer) -> Scorer:
        if "judge" not in value.writes:
            raise ValueError(f"expected a scorer that judges, got {value.kind!r}")
        if getattr(value, "against", "scale") != "scale":
            raise ValueError("requests have no reference; let the judge work on a scale (`against: scale`)")
        return value

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def open(self, folder: Path, context: RunContext) -> SignalState:
        """A judge with a desk to keep verdicts on."""
        return _Sitting(self, context)

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.monitor.windows import hash_to_unit_interval

        text = answer_text(trace)
        if text is None or not text.strip() or hash_to_unit_interval(f"judge {trace.id}") >= self.share:
            return None
        return ScorerRow(question=question_text(trace), prediction=text, references=())

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        raise NotImplementedError("a judge is asked through `open`")


class _Sitting:
    """The judge at work: what was judged once is remembered by what was judged."""

    def __init__(self, signal: JudgeSignal, context: RunContext) -> None:
        self._signal = signal
        self._context = context
        self._known: dict[ScorerRow, float | None] = {}

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        return self._signal.row(trace, feedback)

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        scores = [score for score in self._scores(rows) if score is not None]
        if not scores:
            return {}
        signal_value = estimate_mean(scores, WindowSpan(span.seconds, len(scores)))
        return {
            self._signal.called: signal_value._replace(low=max(0.0, signal_value.low), high=min(1.0, signal_value.high))
        }

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        return [1.0 if score is None else score for score in self._scores(rows)]

    def explain(self, rows: Sequence[SignalRow]) -> str:
        return ""

    def _scores(self, rows: Sequence[SignalRow]) -> list[float | None]:
        """Return one score a row; only new rows are judged, and those outside the window are dropped."""
        new_answers = list(dict.fromkeys(row.value for row in rows if row.value not in self._known))
        if new_answers:
            found = self._signal.judge.columns(new_answers, self._context)["judge"]
            self._known |= dict(zip(new_answers, found, strict=True))
        if len(self._known) > 2 * len(rows) + 1000:
            self._known = {row.value: self._known[row.value] for row in rows}
        return [self._known[row.value] for row in rows]
