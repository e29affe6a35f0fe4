"""Signals over the requests that all sites served in a window of time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from luthier.core.context import RunContext
from luthier.data.check import RowNames
from luthier.federated.analytics.query import SiteQuery, SiteRows
from luthier.federated.errors import OrderError
from luthier.metrics.counts import CountGroup, Counts
from luthier.monitor.signal import Signal, SignalRow
from luthier.monitor.windows import hash_text_key
from luthier.traces.record import Feedback, Trace

if TYPE_CHECKING:
    from luthier.monitor.signal import SignalState

LOOKBACK = timedelta(days=30)
"""Maximum time before a window of requests whose feedback is in the window."""


class MonitorQuery(SiteQuery):
    """What the signals of a monitor say of the requests that each site served in a window of time, and of the feedback
    that came in it."""

    kind: Literal["monitor"] = "monitor"

    signals: tuple[Signal, ...] = Field(min_length=1)
    """What is measured."""
    since: int = Field(ge=0)
    """The window's beginning, in seconds since 1970."""
    until: int
    """The window's end, which it does not hold."""
    models: tuple[str, ...] = ()
    """Names such as `support@prod`, whose requests alone are counted."""

    @model_validator(mode="after")
    def _has_a_window(self) -> MonitorQuery:
        if self.until <= self.since:
            raise ValueError("`until` comes after `since`")
        return self

    @property
    def window(self) -> tuple[int, int] | None:
        """The window."""
        return self.since, self.until

    def list_groups(self, names: RowNames) -> Sequence[CountGroup]:
        """The counts of all signals."""
        return [group for signal in self.signals for group in signal.list_count_groups()]

    def count(self, rows: SiteRows, names: RowNames) -> Counts:
        """Count one site's traffic; `OrderError` where it has none, or the window is not over."""
        if rows.traffic is None or not rows.traffic.exists():
            raise OrderError("no requests are kept here")
        if self.until > time.time():
            raise OrderError("the window is not over")
        folders = {signal.called: self._find_reference(signal, rows) for signal in self.signals}
        context = RunContext(recipe_dir=rows.traffic, seed=rows.seed)
        states = {signal.called: signal.open(folders[signal.called], context) for signal in self.signals}
        found = dict[str, Mapping[str, int]]()
        for signal, values in zip(self.signals, self._read(rows.traffic, states), strict=True):
            found.update(signal.count(values, folders[signal.called], context))
        return found

    def _find_reference(self, signal: Signal, rows: SiteRows) -> Path:
        """Return the folder with what a signal was fitted to here."""
        if not (signal.learns or signal.needs_report):
            return Path()
        folder = None if rows.references is None else rows.references / signal.called
        if folder is None or not folder.is_dir():
            raise OrderError(f"there is nothing here that {signal.called} is held against")
        return folder

    def _read(self, traffic: Path, states: Mapping[str, SignalState]) -> list[list[SignalRow]]:
        """The rows of each signal in the window; of several words of one person about an answer, the last."""
        from luthier.traces.stream import iter_trace_events

        begin, end = (datetime.fromtimestamp(moment, UTC) for moment in (self.since, self.until))
        found: list[dict[int, SignalRow]] = [{} for _ in self.signals]
        traces = dict[str, Trace]()
        for event in iter_trace_events(traffic, begin - LOOKBACK, end):
            if isinstance(event, Trace):
                if self.models and not {event.model, event.release} & set(self.models):
                    continue
                traces[event.id] = event.model_copy(update={"messages": ()})
            trace = event if isinstance(event, Trace) else traces.get(event.trace)
            if trace is None or not begin <= event.timestamp < end:
                continue
            feedback = event if isinstance(event, Feedback) else None
            for rows, signal in zip(found, self.signals, strict=True):
                if signal.of == ("requests" if feedback is None else "feedback"):
                    value = states[signal.called].row(trace, feedback)
                    key = hash_text_key(trace.id if feedback is None else f"{trace.id} {feedback.by}")
                    if value is not None:
                        rows[key] = SignalRow(key, value, trace.id)
        return [list(rows.values()) for rows in found]

    def find_noise_obstacle(self, names: RowNames) -> str:
        """Refuse a signal that compares with training rows, which noise in counts of requests does not protect."""
        for signal in self.signals:
            if signal.learns or signal.needs_report:
                return f"{signal.called} is held against training rows"
        return ""

    def refuses(self) -> str:
        """A signal that counts do not tell of."""
        for signal in self.signals:
            if not signal.list_count_groups():
                return f"{signal.called} cannot be told by counts"
        return ""
