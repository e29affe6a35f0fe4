"""The role `signal`: numbers of traffic over time, each with its interval and number of events.

A signal is settings. Opened, it returns what it keeps of one request or of feedback on it (its row), and the numbers of
a window's rows. Rows are small, and a window holds a bounded sample of them, chosen by the ids of requests: a number is
the same function of rows for live traffic, a log, or an evaluation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field

from luthier.chat.messages import Media
from luthier.core.component import Component
from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.metrics.counts import CountGroup, Counts
from luthier.traces.record import Feedback, Trace

Events = Literal["requests", "feedback"]


class SignalValue(NamedTuple):
    """A number, its 95 % interval, and the events that it rests on."""

    value: float
    low: float
    high: float
    events: int


class SignalRow(NamedTuple):
    """What a signal keeps of one event."""

    key: int
    """64 bits of a hash of the request's id, and of who spoke: the later word of a person takes the former's place."""
    value: Any
    trace: str
    about: tuple[tuple[str, str], ...] = ()
    """Slices of the request: release, model, and the application's metadata."""


class WindowSpan(NamedTuple):
    """Length of a window, and its number of events, including those outside the sample."""

    seconds: float
    events: int
    ends: bool = True
    """Whether the interval is needed; without it, a costly bootstrap is skipped."""


class ReportRow(NamedTuple):
    """A held-out row of the released model's evaluation: class probabilities, prediction and reference label."""

    probabilities: Mapping[str, float]
    """Probability of each class."""
    prediction: str
    right: str


@dataclass(frozen=True, kw_only=True)
class TrainingSample:
    """A sample of the release's training data, chosen by content."""

    prompts: Sequence[str]
    answers: Sequence[str]
    recipe_dir: Path
    seed: int
    media: Sequence[Media] = ()
    """The pictures and sounds that the rows show and play, each once."""
    measured: Sequence[ReportRow] = ()
    """The report's rows, where the model chose among classes."""


class SignalState(Protocol):
    """An open signal."""

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        """Return what is kept of a request (or of feedback on it); None when it has no value."""
        ...

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        """Return the numbers of a window's rows, in order; an undefined number is absent."""
        ...

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        """Return each row's value of the first number, to find the worst; None when it has none."""
        ...

    def explain(self, rows: Sequence[SignalRow]) -> str:
        """Return remarks for the reader of an alert; often none."""
        ...


class Signal(Component):
    """The base class of signals, which are measured on traffic."""

    role: ClassVar[str] = "signal"
    home: ClassVar[str] = "luthier.monitor.signals"
    of: ClassVar[Events] = "requests"
    """Whether it reads requests, or later feedback on answers."""
    usual: ClassVar[Window] = Window(seconds=3600)
    """The window where a rule names none."""
    learns: ClassVar[bool] = False
    """Whether it needs a reference: what it was fitted to on the training data."""
    needs_report: ClassVar[bool] = False
    """Whether its reference is the model's predictions on the rows of its report."""

    name: str = Field(default="", pattern=r"^([a-z][a-z0-9_]*)?$")
    """Name in rules, where it differs from the kind: needed when two signals are of one kind."""

    @property
    def called(self) -> str:
        """Its name in rules."""
        return self.name or self.kind

    @property
    def whole(self) -> float:
        """The value that is 100 % of its numbers."""
        return 1.0

    @abstractmethod
    def numbers(self) -> Sequence[str]:
        """The names of its numbers, each beginning with `called`."""

    def enough(self, number: str, spec: Window) -> int:
        """Minimum number of events: by default, all that a window `on` a number of events needs."""
        return max(1, spec.events)

    def list_count_groups(self) -> Sequence[CountGroup]:
        """The counts by which several places tell its numbers together; none where counts cannot."""
        return []

    def list_summed_numbers(self) -> Sequence[str]:
        """The numbers that those counts tell."""
        return self.numbers() if self.list_count_groups() else ()

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """Return the counts of some rows; `folder` has what the signal was fitted to there."""
        return {}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """Return its numbers from summed counts of a window of `seconds`; None where they are undefined."""
        return {}

    def learn(self, training: TrainingSample, folder: Path) -> None:
        """Write the reference to hold traffic against into a folder; nothing where none is needed."""
        return

    def open(self, folder: Path, context: RunContext) -> SignalState:
        """The signal at work, with what it wrote into this folder."""
        return self

    @abstractmethod
    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        """Return what is kept of a request, or of feedback on it; None when it has no value."""

    @abstractmethod
    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        """Each number of a window's rows."""

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        """Return each row's value of the first number."""
        return [float(row.value) for row in rows]

    def explain(self, rows: Sequence[SignalRow]) -> str:
        """Return no remarks."""
        return ""


class ShareSignal(Signal):
    """The base class of signals whose one number is a share: a row's value is 0 or 1."""

    def numbers(self) -> Sequence[str]:
        """The share, by the signal's own name."""
        return [self.called]

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        """The share of ones in a window."""
        from luthier.monitor.evaluator import estimate_share

        return {self.called: estimate_share(rows, span)}

    def list_count_groups(self) -> Sequence[CountGroup]:
        """Zeros and ones."""
        from luthier.monitor.counts import build_share_group

        return [build_share_group(self.called)]

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """Zeros and ones of some rows."""
        from luthier.monitor.counts import count_share

        return {self.called: count_share(row.value for row in rows)}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """The share of ones in summed counts."""
        from luthier.monitor.counts import measure_share

        return {self.called: measure_share(counts[self.called])}


def map_number_to_signal(signals: Iterable[Signal]) -> dict[str, Signal]:
    """Every number that signals give, and which gives it."""
    return {number: signal for signal in signals for number in signal.numbers()}


def answer_text(trace: Trace) -> str | None:
    """Return the model's text; None without an answer."""
    return None if trace.answer is None else trace.answer.content


def question_text(trace: Trace) -> str:
    """Return the user's last message; empty without one."""
    return next((turn.content for turn in reversed(trace.messages) if turn.role == "user"), "")
