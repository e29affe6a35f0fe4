"""Evaluate signals and alerts over windows of traces, in order of time.

The first look at a folder reads all traces; the next ones read only new traces, each once. Shares, means, quantiles and
rates have 95 % intervals.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.core.hashing import digest_of
from luthier.monitor.alerts import (
    LABEL,
    AlertMessage,
    AlertState,
    Tells,
    advance_alert_state,
    find_example_requests,
    find_worst_slice,
)
from luthier.monitor.plan import AlertRule, MonitorPlan
from luthier.monitor.signal import Signal, SignalRow, SignalState, SignalValue, WindowSpan
from luthier.monitor.windows import RowWindow, build_window, hash_text_key
from luthier.traces.record import Feedback, Trace

if TYPE_CHECKING:
    from luthier.traces.stream import TraceTail

REMEMBERED = 100_000
"""Number of requests kept for later feedback; that on older ones is ignored."""


@dataclass
class _Watched:
    """An open signal with its windows, and what was last read of each."""

    signal: Signal
    eye: SignalState
    windows: dict[Window, RowWindow]
    last: dict[tuple[Window, bool], tuple[tuple[int, ...], Mapping[str, SignalValue]]]


class AlertEvaluator:
    """Evaluates the signals and alerts of one monitor on a stream of events, live or from a log."""

    def __init__(self, plan: MonitorPlan, context: RunContext) -> None:
        self.plan = plan
        self.states: dict[str, AlertState] = {rule.name: AlertState() for rule in plan.rules}
        self.unjoined = 0
        """Feedback about requests that are not known (any more)."""
        self.events_seen = 0
        self._watched: dict[str, _Watched] = {}
        self._number_of = {number: signal.called for signal in plan.signals for number in signal.numbers()}
        for signal, spec in plan.watched():
            if signal.called not in self._watched:
                eye = signal.open(plan.references / signal.called, context)
                self._watched[signal.called] = _Watched(signal, eye, {}, {})
            self._watched[signal.called].windows[spec] = build_window(spec)
        self._traces: OrderedDict[str, Trace | None] = OrderedDict()
        """By id, what was asked of a model that is watched; None for others."""
        self._begun: float | None = None
        self._next: float | None = None

    def add(self, event: Trace | Feedback) -> None:
        """Take one event; nothing comes of one that is about other models than those that are watched."""
        at = event.timestamp.timestamp()
        if self._is_elsewhere(event):
            return
        self._begun = at if self._begun is None else min(self._begun, at)
        self.events_seen += 1
        if isinstance(event, Trace):
            self._remember(event, event)
            self._show(event, None, at)
        elif (trace := self._traces.get(event.trace)) is not None:
            self._show(trace, event, at)
        else:
            self.unjoined += 1

    def looks(self, until: float) -> Iterator[float]:
        """Yield the due evaluation times up to a time; call `look` before the next one."""
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

    def look(self, at: float) -> list[AlertMessage]:
        """Evaluate every alert on the traffic before a time; returns the notifications."""
        messages = []
        for rule in self.plan.rules:
            before = self.states[rule.name]
            reading = self.reading(rule.when.name, rule.when.window, at, ends=rule.alert.significant)
            after = advance_alert_state(rule.alert, before, holds=condition_holds(rule, before, reading), at=at)
            self.states[rule.name] = after
            if after.status == "firing" and before.status != "firing":
                messages.append(self._message(rule, after, at, "firing"))
            elif before.status == "firing" and after.status != "firing":
                messages.append(self._message(rule, before, at, "resolved"))
        return messages

    def reading(self, number: str, spec: Window, at: float, *, ends: bool = True) -> SignalValue | None:
        """Return a number of a window at a time; None without data."""
        watched = self._watched[self._number_of[number]]
        row_window = watched.windows[spec]
        seconds = self._seconds(spec, at)
        version = (*row_window.version(at), round(seconds) if spec.seconds else 0)
        last = watched.last.get((spec, ends))
        if last is None or last[0] != version:
            rows = row_window.rows(at)
            span = WindowSpan(seconds, row_window.events(at), ends)
            last = version, watched.eye.measure(rows, span) if rows else {}
            watched.last[spec, ends] = last
        return last[1].get(number)

    def readings(self, at: float) -> Iterator[tuple[str, Window, SignalValue]]:
        """Every number of every window that is looked at."""
        for watched in self._watched.values():
            for spec in watched.windows:
                for number in watched.signal.numbers():
                    if (signal_value := self.reading(number, spec, at)) is not None:
                        yield number, spec, signal_value

    def _is_elsewhere(self, event: Trace | Feedback) -> bool:
        """Return whether an event is about a model that is not monitored."""
        if not self.plan.models:
            return False
        if isinstance(event, Feedback):
            return event.trace in self._traces and self._traces[event.trace] is None
        if {event.model, event.release} & self.plan.models:
            return False
        self._remember(event, None)
        return True

    def _remember(self, trace: Trace, kept: Trace | None) -> None:
        """Keep what feedback on the answer needs; not the request's text, which is largest."""
        if not any(signal.of == "feedback" for signal in self.plan.signals):
            return
        self._traces[trace.id] = kept and kept.model_copy(update={"messages": ()})
        if len(self._traces) > REMEMBERED:
            self._traces.popitem(last=False)

    def _show(self, trace: Trace, feedback: Feedback | None, at: float) -> None:
        event_kind = "requests" if feedback is None else "feedback"
        for watched in self._watched.values():
            if watched.signal.of != event_kind:
                continue
            value = watched.eye.row(trace, feedback)
            if value is None:
                continue
            row = SignalRow(_key(trace, feedback), value, trace.id, _about(trace, feedback))
            for row_window in watched.windows.values():
                row_window.add(at, row)

    def _seconds(self, spec: Window, at: float) -> float:
        """Return the length of a window: at most the time since monitoring began."""
        since = at - (self._begun if self._begun is not None else at)
        return min(spec.seconds, since) if spec.seconds else since

    def _message(self, rule: AlertRule, state: AlertState, at: float, tells: Tells) -> AlertMessage:
        reading = self.reading(rule.when.name, rule.when.window, at)
        watched = self._watched[self._number_of[rule.when.name]]
        rows = watched.windows[rule.when.window].rows(at) if tells == "firing" else []
        shown = find_example_requests(watched.eye, rule.when, rows) if rows else ()
        found = reading._asdict() if reading is not None else {"value": None}
        since = state.active_at if state.active_at is not None else at
        return AlertMessage(
            id=digest_of([self.plan.name, rule.name, since, tells])[:24],
            tells=tells,
            monitor=self.plan.name,
            alert=rule.name,
            severity=rule.alert.severity,
            at=datetime.fromtimestamp(at, UTC),
            since=datetime.fromtimestamp(since, UTC),
            when=rule.alert.expr,
            number=rule.when.name,
            limit=rule.limit,
            worst=find_worst_slice(watched.eye, rule.when, rows) if rows else None,
            examples=shown,
            explanation=watched.eye.explain(rows) if rows else "",
            act=rule.alert.act or _act(watched.signal, shown),
            **found,
        )


def condition_holds(rule: AlertRule, before: AlertState, reading: SignalValue | None) -> bool:
    """Return whether an alert's condition holds, given its state and the reading; without data, as the alert's
    `no_data` says.
    """
    firing = before.status == "firing"
    if reading is None or reading.events < rule.enough:
        return rule.alert.no_data == "alert" or (rule.alert.no_data == "keep" and firing)
    if firing and rule.clear is not None:
        return not rule.clear.holds(reading.value, rule.clear_limit)
    if not rule.alert.significant or firing:
        return rule.when.holds(reading.value, rule.limit)
    return rule.when.holds(reading.low if rule.when.upward else reading.high, rule.limit)


def _act(signal: Signal, shown: Sequence[str]) -> str:
    """Return the suggested command: train on the feedback, or inspect a request."""
    if not shown:
        return ""
    return "luthier new NAME --from traces" if signal.of == "feedback" else f"luthier traces show {shown[0]}"


def _key(trace: Trace, feedback: Feedback | None) -> int:
    return hash_text_key(trace.id if feedback is None else f"{trace.id} {feedback.by}")


def _about(trace: Trace, feedback: Feedback | None) -> tuple[tuple[str, str], ...]:
    """Return a request's slices."""
    attributes = [
        ("model", trace.model),
        ("release", trace.release),
        ("variant", trace.variant),
        ("key", trace.key or ""),
    ]
    if feedback is not None and feedback.label is not None:
        attributes.append((LABEL, feedback.label))
    return tuple(pair for pair in (*attributes, *sorted(trace.meta.items())) if pair[1])


LATE = timedelta(minutes=5)
"""A request is written when it is answered, under the time at which it came: so much later at most."""


class EventFollower:
    """Follows a traffic folder and yields the events that were not read before."""

    def __init__(self, folder: Path, since: datetime) -> None:
        self._folder = folder
        self._since = since
        self._seen: dict[tuple[str, str, datetime], None] = {}
        self._ahead: list[Trace | Feedback] = []
        """What came under a time that is still to come."""
        self._arrivals: TraceTail | None = None

    def fresh(self, until: datetime) -> Iterator[Trace | Feedback]:
        """Everything before a time that was not given out yet."""
        if not self._folder.exists():
            return
        ahead, self._ahead = self._ahead, []
        for event in self._come(ahead):
            name = _name(event)
            if event.timestamp >= until:
                self._ahead.append(event)
            elif name[2] >= self._since and name not in self._seen:
                self._seen[name] = None
                yield event
        self._since = max(self._since, until - LATE)
        self._seen = {name: None for name in self._seen if name[2] >= self._since}

    def _come(self, ahead: Iterable[Trace | Feedback]) -> Iterable[Trace | Feedback]:
        """Yield possibly new events in order of time: of a folder, those written since; of a file, all."""
        from luthier.traces.stream import TraceTail, iter_trace_events

        if self._folder.is_dir():
            self._arrivals = self._arrivals or TraceTail(self._folder)
            if self._arrivals.goes_on:
                return sorted((*ahead, *self._arrivals.fresh()), key=lambda event: event.timestamp)
            self._arrivals.skip()  # first: what is written while the folder is read comes twice, and is known
        return iter_trace_events(self._folder, self._since)


def _name(event: Trace | Feedback) -> tuple[str, str, datetime]:
    at = event.timestamp.astimezone(UTC)
    return (event.id, "", at) if isinstance(event, Trace) else (event.trace, f"by {event.by}", at)


Z95 = 1.959963984540054


def estimate_share(rows: Sequence[SignalRow], span: WindowSpan) -> SignalValue:
    """The part of the rows that are 1 (Wilson's interval)."""
    from luthier.metrics.intervals import wilson_interval

    right = sum(row.value for row in rows)
    return SignalValue(right / len(rows), *wilson_interval(right, len(rows)), span.events)


def estimate_mean(values: Sequence[float], span: WindowSpan) -> SignalValue:
    """The mean, with Student's interval; of one value, all that there is."""
    from scipy.special import stdtrit

    middle = math.fsum(values) / len(values)
    if len(values) < 2:
        return SignalValue(middle, middle, middle, span.events)
    variance = math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)
    half = float(stdtrit(len(values) - 1, 0.975)) * math.sqrt(variance / len(values))
    return SignalValue(middle, middle - half, middle + half, span.events)


def estimate_quantile(ordered: Sequence[float], part: float, span: WindowSpan) -> SignalValue:
    """Return a quantile of sorted values, as numpy's default; its interval is between two of them (binomial ranks)."""
    last = len(ordered) - 1
    spread = Z95 * math.sqrt(part * (1 - part) * len(ordered))
    low, high = (
        min(last, max(0, rank)) for rank in (math.floor(part * last - spread), math.ceil(part * last + spread))
    )
    return SignalValue(_between(ordered, part * last), ordered[low], ordered[high], span.events)


def _between(ordered: Sequence[float], rank: float) -> float:
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


def estimate_rate(span: WindowSpan) -> SignalValue:
    """Events in a second, with the interval of a Poisson count (Garwood 1936)."""
    from scipy.special import chdtri

    count, seconds = span.events, max(span.seconds, 1.0)
    low = 0.0 if count == 0 else float(chdtri(2 * count, 0.975)) / 2
    high = float(chdtri(2 * count + 2, 0.025)) / 2
    return SignalValue(count / seconds, low / seconds, high / seconds, count)
