"""Events of a run: their stream, progress counts and pace.

The library never prints; it emits events. A frontend (the command line, a server, a test) subscribes a renderer: a
live line on a terminal, plain lines in a log, or JSON lines for programs. `ThroughputMeter` estimates the remaining
time from pairs (time, done) and reads no clock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from luthier.core.messages import gettext_noop
from luthier.core.system.process import raise_pending_stop

Kind = Literal["run", "start", "cached", "wait", "progress", "note", "warning", "done", "failed", "end"]


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """Something that happened: its kind, the step it belongs to, a sentence, and measures."""

    kind: Kind
    step: str = ""
    text: str = ""
    done: float = 0
    total: float = 0
    unit: str = ""
    measures: Mapping[str, float | str] = field(default_factory=dict)
    """Numbers worth seeing now, such as loss or rows per second, by their name with its unit."""
    details: str = ""
    """What belongs in a log and not in a line for a person: the traceback of a fault."""
    at: float = field(default_factory=time.time)
    """Seconds since 1970."""

    def as_json(self) -> dict[str, Any]:
        """The event as one flat mapping, without what is empty."""
        names = ("kind", "step", "text", "details", "done", "total", "unit", "at")
        values = {name: value for name in names if (value := getattr(self, name))}
        return {**values, "measures": dict(self.measures)} if self.measures else values


Listener = Callable[[RunEvent], bool | None]
"""Hears of events; one that returns True for progress asks the step to stop."""


class RunEventEmitter:
    """Sends the events of one run to all listeners, in order; safe to call from several threads."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners
        self._turn = threading.RLock()

    def emit(self, event: RunEvent) -> bool:
        """Hand the event to every listener; returns whether one of them asks to stop."""
        with self._turn:
            requests = [listener(event) is True for listener in self._listeners]
            return any(requests)

    def of(self, step: str) -> StepEventEmitter:
        """The same stream, speaking for one step."""
        return StepEventEmitter(self, step)


class StepEventEmitter:
    """Emits the progress, notes and warnings of one step; raises a pending stop request after each event."""

    def __init__(self, stream: RunEventEmitter, step: str) -> None:
        self._stream = stream
        self.step = step

    @classmethod
    def saying(cls, say: Callable[[str], object]) -> StepEventEmitter:
        """Events of which only the sentences are heard."""

        def listen(event: RunEvent) -> None:
            if event.text:
                say(event.text)

        return RunEventEmitter(listen).of("")

    def progress(self, done: float, total: float, unit: str, /, **measures: float | str) -> bool:
        """How far the work is: `done` of `total` in `unit`, with numbers worth seeing (loss, rows/s).

        Returns whether a listener asks the step to stop.
        """
        return self._say(
            RunEvent(kind="progress", step=self.step, done=done, total=total, unit=unit, measures=measures)
        )

    def note(self, text: str) -> None:
        """Something that was decided for the user, and why."""
        self._say(RunEvent(kind="note", step=self.step, text=text))

    def warning(self, text: str) -> None:
        """Something the user should look at, though the work goes on."""
        self._say(RunEvent(kind="warning", step=self.step, text=text))

    def _say(self, event: RunEvent) -> bool:
        request = self._stream.emit(event)
        raise_pending_stop()
        return request


def format_counted_noun(number: int, noun: str, nouns: str = "") -> str:
    """`1 row`, `2,000 rows`; `nouns` are several of them where that is not a mere s more (`class`, `classes`)."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def format_rows_affected(number: int, rows: int, one: str, more: str) -> str:
    """`1 of 61 rows has`, `2 of 61 rows have`: the word for one of them, and for more."""
    count = gettext_noop(f"{format_counted_noun(rows, 'row')}")
    return f"{number:,} of {count} {one if number == 1 else more}"


def format_counts_by_name(counts: Mapping[str, int]) -> str:
    """`3 × empty prompt, 17 × near duplicate`: names that do not bend with their number."""
    return ", ".join(f"{count:,} × {name}" for name, count in counts.items())


_WINDOW_S = 30.0
"""The rate is that of the last half minute: old enough to be steady, young enough to follow a change."""


class ThroughputMeter:
    """The rate of some work over the last while."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()

    def mark(self, at: float, done: float) -> None:
        """Note that at a moment (in seconds) so much was done; work that starts again from less starts anew."""
        if self._marks and (done < self._marks[-1][1] or at < self._marks[-1][0]):
            self._marks.clear()
        self._marks.append((at, done))
        while len(self._marks) > 2 and at - self._marks[1][0] >= _WINDOW_S:
            self._marks.popleft()

    @property
    def rate(self) -> float:
        """Units per second; 0 while it cannot be known."""
        if len(self._marks) < 2:
            return 0.0
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else 0.0

    def left(self, total: float) -> float | None:
        """Seconds until `total` is done at this rate; None while it cannot be known."""
        if not self.rate:
            return None
        return max(0.0, total - self._marks[-1][1]) / self.rate


Item = TypeVar("Item")


def take_evenly_spaced(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, in order."""
    count = min(most, len(items))
    return [items[at * len(items) // count] for at in range(count)]
