"""One stream of events: a live line on a terminal, plain lines in a log, JSON lines for programs.

The library never prints: it emits. A door (the command line, a server, a test) subscribes a renderer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.core.stopping import heed

Kind = Literal["run", "start", "cached", "wait", "progress", "note", "warning", "done", "failed", "end"]


@dataclass(frozen=True, kw_only=True)
class Event:
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


Listener = Callable[[Event], bool | None]
"""Hears of events; one that returns True for progress asks the step to stop."""


class Events:
    """The stream of one run: `emit` hands an event to every listener, in order; threads of a step take turns."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners
        self._turn = threading.RLock()

    def emit(self, event: Event) -> bool:
        """Hand the event to every listener; returns whether one of them asks to stop."""
        with self._turn:
            asked = [listener(event) is True for listener in self._listeners]
            return any(asked)

    def of(self, step: str) -> StepEvents:
        """The same stream, speaking for one step."""
        return StepEvents(self, step)


class StepEvents:
    """What a step may say while it works; a wish to stop that was lost on the way is raised once it has been said."""

    def __init__(self, stream: Events, step: str) -> None:
        self._stream = stream
        self.step = step

    def progress(self, done: float, total: float, unit: str, /, **measures: float | str) -> bool:
        """How far the work is: `done` of `total` in `unit`, with numbers worth seeing (loss, rows/s).

        Returns whether a listener asks the step to stop.
        """
        return self._say(Event(kind="progress", step=self.step, done=done, total=total, unit=unit, measures=measures))

    def note(self, text: str) -> None:
        """Something that was decided for the user, and why."""
        self._say(Event(kind="note", step=self.step, text=text))

    def warning(self, text: str) -> None:
        """Something the user should look at, though the work goes on."""
        self._say(Event(kind="warning", step=self.step, text=text))

    def _say(self, event: Event) -> bool:
        asked = self._stream.emit(event)
        heed()
        return asked
