"""Alerts: their rules, states and messages, and the worst slice of the traffic.

An alert is a condition over a signal, a duration, a condition that clears it, and a message. States change as in
Prometheus' rules/alerting.go: a condition that becomes true makes an alert pending, and after `for` it fires. A
condition that becomes false makes a pending alert inactive at once, and a firing alert after `keep_firing_for`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_serializer, model_validator

from luthier.core.component import add_field_descriptions, refuse_unknown_settings
from luthier.core.expressions import Seconds, ThresholdExpression
from luthier.monitor.signal import SignalRow, SignalState, WindowSpan

Severity = Literal["info", "warning", "critical"]
NoData = Literal["ok", "keep", "alert"]


class Alert(BaseModel):
    """An alert rule: a condition on signals, how long it must hold, and its severity.

    `{expr: "accuracy < 0.9 on 200 labels", for: 10m, clear: "accuracy > 0.92", severity: critical}`; a text alone is
    its `expr`. The states are those of Prometheus: inactive, pending while `for` runs, firing, and inactive again.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    expr: str = Field(min_length=1)
    """The condition, such as `accuracy < 0.9 on 200 labels`, `latency.p95 > 2 over 10m`, `macro_f1 < report - 0.03`."""
    name: str = Field(default="", pattern=r"^([A-Za-z][A-Za-z0-9_]*)?$")
    """What it is called; by default, its number (`latency_p95`)."""
    hold: Seconds = Field(default=0, alias="for")
    """For how long the condition must hold before it fires; written `for`."""
    clear: str | None = None
    """A condition on the same number that must hold before it is over, such as `accuracy > 0.92`; by default, it is
    over as soon as `expr` does not hold."""
    keep_firing_for: Seconds = 0
    """For how long it goes on firing after it was over, so that it does not come and go."""
    min_events: int | None = Field(default=None, ge=1)
    """With fewer events in the window there is no data; by default all that a window `on` so many events asks for, and
    1 for a window of time, or 2 where it is to be `significant`: of one event nothing is."""
    no_data: NoData = "ok"
    """What is done without data: `ok` takes the condition as not holding, `alert` as holding, `keep` leaves a firing
    alert firing."""
    significant: bool = False
    """Whether the whole 95 % interval must be beyond the limit, so that chance alone seldom tells anybody."""
    severity: Severity = "warning"
    """How bad it is; channels may choose by it."""
    act: str = ""
    """The command to act, shown in the message; by default one that shows the requests behind it."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        """A text alone is the condition."""
        value = {"expr": value} if isinstance(value, str) else value
        if not isinstance(value, dict):
            return value
        refuse_unknown_settings(cls, {"hold" if name == "for" else name: entry for name, entry in value.items()})
        return value

    @model_serializer(mode="wrap")
    def _as_written(self, handler: Any) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        return {"for" if name == "hold" else name: value for name, value in found.items()}

    @property
    def called(self) -> str:
        """Its name: as given, or after its number."""
        match = re.match(r"\s*([\w.]+)", self.expr)
        return self.name or (match[1] if match else "alert").replace(".", "_")


Status = Literal["inactive", "pending", "firing"]


class AlertState(NamedTuple):
    """State of an alert."""

    status: Status = "inactive"
    active_at: float | None = None
    """Since when its condition holds (seconds since 1970)."""
    over_since: float | None = None
    """Since when the condition of a firing alert holds no more."""


def advance_alert_state(alert: Alert, state: AlertState, *, holds: bool, at: float) -> AlertState:
    """Return the state of an alert after one evaluation."""
    if holds:
        return _on(alert, state, at)
    if state.status != "firing":
        return AlertState()
    over_since = at if state.over_since is None else state.over_since
    if at - over_since < alert.keep_firing_for:
        return state._replace(over_since=over_since)
    return AlertState()


def _on(alert: Alert, state: AlertState, at: float) -> AlertState:
    active_at = at if state.active_at is None else state.active_at
    if state.status == "firing":
        return state._replace(over_since=None)
    if at - active_at >= alert.hold:
        return AlertState("firing", active_at)
    return AlertState("pending", active_at)


Tells = Literal["firing", "resolved", "test"]


class WorstTrafficSlice(BaseModel):
    """The part of the traffic on which a number is worst."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    column: str
    """`release`, `model`, `label`, or a column of the application's metadata."""
    value: str
    reading: float
    events: int


class AlertMessage(BaseModel):
    """One notification of an alert; each firing is sent once."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    id: str
    """Names this message: one that is sent again after a kill bears the same."""
    tells: Tells
    monitor: str
    """The recipe and step."""
    alert: str
    severity: Severity
    at: AwareDatetime
    since: AwareDatetime
    """Since when the condition holds."""
    when: str
    """The condition, as it was written."""
    number: str
    value: float | None
    """None where there is no data."""
    low: float | None = None
    high: float | None = None
    events: int = 0
    limit: float
    worst: WorstTrafficSlice | None = None
    """The slice on which it is worst."""
    examples: tuple[str, ...] = ()
    """Ids of requests that show it; their texts are not sent."""
    explanation: str = ""
    act: str = ""
    """The command to act."""

    @property
    def title(self) -> str:
        """One line."""
        if self.tells == "resolved":
            return f"resolved: {self.alert} ({self.monitor})"
        return f"{'test' if self.tells == 'test' else self.severity}: {self.alert} ({self.monitor}): {self.when}"

    def lines(self) -> Iterator[str]:
        """The whole message, line by line."""
        yield self.title
        yield f"{self.number} is {self._value()}; the limit is {self.limit:.4g}"
        yield f"at {_time(self.at)}, since {_time(self.since)}"
        if self.worst is not None:
            of = self.worst
            yield f"worst where {of.column} is {of.value}: {of.reading:.4g} of {of.events:,} events"
        if self.examples:
            yield f"requests that show it: {', '.join(self.examples)}"
        if self.explanation:
            yield self.explanation
        if self.act:
            yield f"what to do: {self.act}"

    def text(self) -> str:
        """The whole message."""
        return "\n".join(self.lines())

    def _value(self) -> str:
        if self.value is None:
            return "not known (no data)"
        ends = "" if self.low is None or self.low == self.high else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.value:.4g}{ends} on {self.events:,} events"


def _time(at: AwareDatetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S %Z")


SHOWN = 3
LABEL = "label"
"""Slices by true class: an average over classes is meaningless within one class, so rows are averaged."""
FEWEST = 10
"""Minimum rows of a slice."""
_MOST_SLICES = 50


def find_worst_slice(
    eye: SignalState, when: ThresholdExpression, rows: Sequence[SignalRow]
) -> WorstTrafficSlice | None:
    """The slice that is beyond the whole by most; None where no slice is worse than the whole."""
    whole, rowwise = _value(eye, when, rows), _mean(eye, rows)
    sign = 1.0 if when.upward else -1.0
    found: list[tuple[float, int, WorstTrafficSlice]] = []
    for (column, value), signal_rows in _slices(rows).items():
        reading, usual = (
            (_mean(eye, signal_rows), rowwise) if column == LABEL else (_value(eye, when, signal_rows), whole)
        )
        if reading is not None and usual is not None and sign * (reading - usual) > 0:
            traffic_slice = WorstTrafficSlice(column=column, value=value, reading=reading, events=len(signal_rows))
            found.append((sign * reading, len(signal_rows), traffic_slice))
    return max(found, key=lambda entry: entry[:2])[2] if found else None


def _value(eye: SignalState, when: ThresholdExpression, rows: Sequence[SignalRow]) -> float | None:
    reading = eye.measure(rows, WindowSpan(0.0, len(rows), ends=False)).get(when.name)
    return None if reading is None else reading.value


def _mean(eye: SignalState, rows: Sequence[SignalRow]) -> float | None:
    each = eye.each(rows)
    return None if each is None else sum(each) / len(rows)


def _slices(rows: Sequence[SignalRow]) -> dict[tuple[str, str], list[SignalRow]]:
    """Slices that hold some of the rows and not all, the largest when there are many."""
    groups: dict[tuple[str, str], list[SignalRow]] = {}
    for row in rows:
        for pair in row.about:
            groups.setdefault(pair, []).append(row)
    able = [(pair, mine) for pair, mine in groups.items() if FEWEST <= len(mine) < len(rows)]
    return dict(sorted(able, key=lambda entry: (-len(entry[1]), entry[0]))[:_MOST_SLICES])


def find_example_requests(eye: SignalState, when: ThresholdExpression, rows: Sequence[SignalRow]) -> tuple[str, ...]:
    """The ids of the requests that are farthest on the wrong side, the latest first among equals."""
    each = eye.each(rows)
    if each is None:
        return ()
    sign = -1.0 if when.upward else 1.0
    order = sorted(range(len(rows)), key=lambda index: (sign * each[index], -index))
    return tuple(dict.fromkeys(rows[index].trace for index in order))[:SHOWN]
