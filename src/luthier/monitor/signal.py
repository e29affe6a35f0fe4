"""A signal turns traffic into numbers over time: each with its interval, and how many events it rests on.

A signal is settings. Opened, it says what it keeps of one request or of what somebody said about it (its row), and what
the rows of a window come to. Rows are small, and a window holds a bounded sample of them, drawn evenly by the ids of
requests: a number is the same function of rows whether traffic comes live, from a log, or from an evaluation.
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
    """What the request can be sliced by: release, model, what the application said of it."""


class WindowSpan(NamedTuple):
    """How long a window is, and how many events were in it, those that the sample leaves out included."""

    seconds: float
    events: int
    ends: bool = True
    """Whether the interval's ends are wanted; where a bootstrap is dear, a look at the value alone does without."""


class ReportRow(NamedTuple):
    """A held-out row of the released model's evaluation: class probabilities, prediction and reference label."""

    probabilities: Mapping[str, float]
    """Of each class."""
    prediction: str
    right: str


@dataclass(frozen=True, kw_only=True)
class TrainingSample:
    """What the release was trained on, as signals learn from it: a sample, drawn by content."""

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
        """What is kept of a request (or of what was said about it); None when it says nothing."""
        ...

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        """Each number of a window's rows, in the order in which they came; a number that cannot be told is absent."""
        ...

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        """What each row alone says of the first number, by which the worst are found; None when it says nothing."""
        ...

    def explain(self, rows: Sequence[SignalRow]) -> str:
        """What a reader of an alert should know beside the numbers; often nothing."""
        ...


class Signal(Component):
    """The base class of signals, which are measured on traffic."""

    role: ClassVar[str] = "signal"
    home: ClassVar[str] = "luthier.monitor.signals"
    of: ClassVar[Events] = "requests"
    """Whether it looks at requests, or at what people say about answers afterwards."""
    usual: ClassVar[Window] = Window(seconds=3600)
    """The window where a rule names none."""
    learns: ClassVar[bool] = False
    """Whether it needs a reference: what it learnt from the training data."""
    needs_report: ClassVar[bool] = False
    """Whether its reference is what the model answered to the rows of its report."""

    name: str = Field(default="", pattern=r"^([a-z][a-z0-9_]*)?$")
    """How rules call it, where not by its kind: needed when two signals are of one kind."""

    @property
    def called(self) -> str:
        """How rules call it."""
        return self.name or self.kind

    @property
    def whole(self) -> float:
        """What 100 % is of its numbers."""
        return 1.0

    @abstractmethod
    def numbers(self) -> Sequence[str]:
        """The names of its numbers, each beginning with `called`."""

    def enough(self, number: str, spec: Window) -> int:
        """With fewer events there is no data: by default, all that a window `on` so many events asks for."""
        return max(1, spec.events)

    def list_count_groups(self) -> Sequence[CountGroup]:
        """The counts by which several places tell its numbers together; none where counts cannot."""
        return []

    def list_summed_numbers(self) -> Sequence[str]:
        """The numbers that those counts tell."""
        return self.numbers() if self.list_count_groups() else ()

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """Those counts of some rows; `folder` has what the signal learnt there."""
        return {}

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """Its numbers from summed counts of a window of so many seconds; None where they tell nothing."""
        return {}

    def learn(self, training: TrainingSample, folder: Path) -> None:
        """Write the reference to hold traffic against into a folder; nothing where none is needed."""
        return

    def open(self, folder: Path, context: RunContext) -> SignalState:
        """The signal at work, with what it wrote into this folder."""
        return self

    @abstractmethod
    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        """What is kept of a request, or of what was said about it; None when it says nothing."""

    @abstractmethod
    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        """Each number of a window's rows."""

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        """What each row alone says of the first number."""
        return [float(row.value) for row in rows]

    def explain(self, rows: Sequence[SignalRow]) -> str:
        """Nothing beside the numbers."""
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
    """What the model wrote; None where no answer was made."""
    return None if trace.answer is None else trace.answer.content


def question_text(trace: Trace) -> str:
    """What the user wrote last; nothing where no user spoke."""
    return next((turn.content for turn in reversed(trace.messages) if turn.role == "user"), "")
