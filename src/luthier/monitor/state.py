"""The state of an alert, and how a look at its condition changes it: as Prometheus' rules/alerting.go does.

A condition that begins to hold makes an alert pending; when it has held for `for`, it fires. One that holds no more
makes a pending alert inactive at once, and a firing one after `keep_firing_for`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from luthier.monitor.alert import Alert

Status = Literal["inactive", "pending", "firing"]


class State(NamedTuple):
    """Where an alert stands."""

    status: Status = "inactive"
    active_at: float | None = None
    """Since when its condition holds (seconds since 1970)."""
    over_since: float | None = None
    """Since when the condition of a firing alert holds no more."""


def step(alert: Alert, state: State, *, holds: bool, at: float) -> State:
    """The state after a look at a time."""
    if holds:
        return _on(alert, state, at)
    if state.status != "firing":
        return State()
    over_since = at if state.over_since is None else state.over_since
    if at - over_since < alert.keep_firing_for:
        return state._replace(over_since=over_since)
    return State()


def _on(alert: Alert, state: State, at: float) -> State:
    active_at = at if state.active_at is None else state.active_at
    if state.status == "firing":
        return state._replace(over_since=None)
    if at - active_at >= alert.hold:
        return State("firing", active_at)
    return State("pending", active_at)
