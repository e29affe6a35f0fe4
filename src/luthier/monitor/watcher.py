"""Watching: traffic goes in, in order of time, and at each look the alerts' states change and messages come out."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from luthier.core.digest import digest_of
from luthier.core.expressions import Window
from luthier.monitor.message import Message, Tells
from luthier.monitor.plan import MonitorPlan, Rule
from luthier.monitor.signal import Eye, Place, Reading, Row, Signal, Span
from luthier.monitor.state import State, step
from luthier.monitor.windows import Kept, key_of, window
from luthier.monitor.worst import LABEL, examples, worst_slice
from luthier.traffic.record import Feedback, Trace

REMEMBERED = 100_000
"""Requests that wait for what people say of them; of older ones it comes too late."""


@dataclass
class _Watched:
    """An open signal with its windows, and what was last read of each."""

    signal: Signal
    eye: Eye
    windows: dict[Window, Kept]
    last: dict[tuple[Window, bool], tuple[tuple[int, ...], Mapping[str, Reading]]]


class Watcher:
    """One monitor at work; the same for live traffic and for a log."""

    def __init__(self, plan: MonitorPlan, place: Place) -> None:
        self.plan = plan
        self.states: dict[str, State] = {rule.name: State() for rule in plan.rules}
        self.unjoined = 0
        """Feedback about requests that are not known (any more)."""
        self.seen = 0
        self._watched: dict[str, _Watched] = {}
        self._number_of = {number: signal.called for signal in plan.signals for number in signal.numbers()}
        for signal, spec in plan.watched():
            if signal.called not in self._watched:
                eye = signal.open(plan.references / signal.called, place)
                self._watched[signal.called] = _Watched(signal, eye, {}, {})
            self._watched[signal.called].windows[spec] = window(spec)
        self._traces: OrderedDict[str, Trace | None] = OrderedDict()
        """By id, what was asked of a model that is watched; None for others."""
        self._begun: float | None = None
        self._next: float | None = None

    def add(self, event: Trace | Feedback) -> None:
        """Take one event; nothing comes of one that is about other models than those that are watched."""
        at = event.at.timestamp()
        if self._is_elsewhere(event):
            return
        self._begun = at if self._begun is None else min(self._begun, at)
        self.seen += 1
        if isinstance(event, Trace):
            self._remember(event, event)
            self._show(event, None, at)
        elif (trace := self._traces.get(event.trace)) is not None:
            self._show(trace, event, at)
        else:
            self.unjoined += 1

    def looks(self, until: float) -> Iterator[float]:
        """The times of looks that are due up to a time; look before the next is asked for."""
        every = self.plan.every_s
        if self._next is None:
            self._next = (math.floor((self._begun or until) / every) + 1) * every
        while self._next <= until:
            at = self._next
            self._next = at + every
            yield at

    def begin_after(self, at: float) -> None:
        """The first look comes after this time: what went before was looked at already."""
        self._next = at + self.plan.every_s

    def look(self, at: float) -> list[Message]:
        """Hold every alert against the traffic before a time; what is to be said."""
        said = []
        for rule in self.plan.rules:
            before = self.states[rule.name]
            reading = self.reading(rule.when.name, rule.when.window, at, ends=rule.alert.certain)
            after = step(rule.alert, before, holds=holds(rule, before, reading), at=at)
            self.states[rule.name] = after
            if after.status == "firing" and before.status != "firing":
                said.append(self._message(rule, after, at, "firing"))
            elif before.status == "firing" and after.status != "firing":
                said.append(self._message(rule, before, at, "resolved"))
        return said

    def reading(self, number: str, spec: Window, at: float, *, ends: bool = True) -> Reading | None:
        """A number of a window at a time; None where nothing can be said."""
        watched = self._watched[self._number_of[number]]
        kept = watched.windows[spec]
        seconds = self._seconds(spec, at)
        version = (*kept.version(at), round(seconds) if spec.seconds else 0)
        last = watched.last.get((spec, ends))
        if last is None or last[0] != version:
            rows = kept.rows(at)
            span = Span(seconds, kept.events(at), ends)
            last = version, watched.eye.measure(rows, span) if rows else {}
            watched.last[spec, ends] = last
        return last[1].get(number)

    def readings(self, at: float) -> Iterator[tuple[str, Window, Reading]]:
        """Every number of every window that is looked at."""
        for watched in self._watched.values():
            for spec in watched.windows:
                for number in watched.signal.numbers():
                    if (found := self.reading(number, spec, at)) is not None:
                        yield number, spec, found

    def _is_elsewhere(self, event: Trace | Feedback) -> bool:
        """Whether an event is about a model that is not watched."""
        if not self.plan.models:
            return False
        if isinstance(event, Feedback):
            return event.trace in self._traces and self._traces[event.trace] is None
        if {event.model, event.release} & self.plan.models:
            return False
        self._remember(event, None)
        return True

    def _remember(self, trace: Trace, kept: Trace | None) -> None:
        """Keep what is needed once somebody speaks of the answer; what was asked is not, and takes most of the room."""
        if not any(signal.of == "feedback" for signal in self.plan.signals):
            return
        self._traces[trace.id] = kept and kept.model_copy(update={"messages": ()})
        if len(self._traces) > REMEMBERED:
            self._traces.popitem(last=False)

    def _show(self, trace: Trace, feedback: Feedback | None, at: float) -> None:
        wanted = "requests" if feedback is None else "feedback"
        for watched in self._watched.values():
            if watched.signal.of != wanted:
                continue
            value = watched.eye.row(trace, feedback)
            if value is None:
                continue
            row = Row(_key(trace, feedback), value, trace.id, _about(trace, feedback))
            for kept in watched.windows.values():
                kept.add(at, row)

    def _seconds(self, spec: Window, at: float) -> float:
        """How long a window is: no longer than traffic has been seen."""
        since = at - (self._begun if self._begun is not None else at)
        return min(spec.seconds, since) if spec.seconds else since

    def _message(self, rule: Rule, state: State, at: float, tells: Tells) -> Message:
        reading = self.reading(rule.when.name, rule.when.window, at)
        watched = self._watched[self._number_of[rule.when.name]]
        rows = watched.windows[rule.when.window].rows(at) if tells == "firing" else []
        shown = examples(watched.eye, rule.when, rows) if rows else ()
        found = reading._asdict() if reading is not None else {"value": None}
        since = state.active_at if state.active_at is not None else at
        return Message(
            id=digest_of([self.plan.name, rule.name, since, tells])[:24],
            tells=tells,
            monitor=self.plan.name,
            alert=rule.name,
            severity=rule.alert.severity,
            at=datetime.fromtimestamp(at, UTC),
            since=datetime.fromtimestamp(since, UTC),
            when=rule.alert.when,
            number=rule.when.name,
            limit=rule.limit,
            worst=worst_slice(watched.eye, rule.when, rows) if rows else None,
            examples=shown,
            story=watched.eye.story(rows) if rows else "",
            act=rule.alert.act or _act(watched.signal, shown),
            **found,
        )


def holds(rule: Rule, before: State, reading: Reading | None) -> bool:
    """Whether an alert's condition holds, given its state and what is read; without data, as the alert says."""
    firing = before.status == "firing"
    if reading is None or reading.events < rule.enough:
        return rule.alert.no_data == "alert" or (rule.alert.no_data == "keep" and firing)
    if firing and rule.clear is not None:
        return not rule.clear.holds(reading.value, rule.clear_limit)
    if not rule.alert.certain or firing:
        return rule.when.holds(reading.value, rule.limit)
    return rule.when.holds(reading.low if rule.when.upward else reading.high, rule.limit)


def _act(signal: Signal, shown: Sequence[str]) -> str:
    """The command that helps: learn from what people said, or look at a request."""
    if not shown:
        return ""
    return "luthier new NAME --from traces" if signal.of == "feedback" else f"luthier traces show {shown[0]}"


def _key(trace: Trace, feedback: Feedback | None) -> int:
    return key_of(trace.id if feedback is None else f"{trace.id} {feedback.by}")


def _about(trace: Trace, feedback: Feedback | None) -> tuple[tuple[str, str], ...]:
    """What a request can be sliced by."""
    told = [("model", trace.model), ("release", trace.release), ("arm", trace.arm), ("key", trace.key or "")]
    if feedback is not None and feedback.label is not None:
        told.append((LABEL, feedback.label))
    return tuple(pair for pair in (*told, *sorted(trace.meta.items())) if pair[1])
