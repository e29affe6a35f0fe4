"""What a monitor knows, as Prometheus reads it: the numbers of the last look, and the states of the alerts."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from luthier.monitor.prometheus import PREFIX, window_label
from luthier.monitor.state import State
from luthier.monitor.watcher import Watcher

_LABELS = ("monitor", "signal", "window")
_STATES = {"inactive": 0, "pending": 1, "firing": 2}


class Exposed(Collector):
    """The numbers of the last look; a number that cannot be told is absent, its events are 0."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._families: list[Any] = []
        self._lock = Lock()

    def take(self, at: float) -> None:
        """Read everything as of a time."""
        name = self._watcher.plan.name
        value, low, high, events = (
            GaugeMetricFamily(f"{PREFIX}{suffix}", about, labels=_LABELS)
            for suffix, about in (
                ("", "A number of a signal."),
                ("_low", "The lower end of its 95 % interval."),
                ("_high", "The upper end of its 95 % interval."),
                ("_events", "The events that it rests on."),
            )
        )
        read = {(number, spec): reading for number, spec, reading in self._watcher.readings(at)}
        for signal, spec in self._watcher.plan.watched():
            for number in signal.numbers():
                labels = [name, number, window_label(spec)]
                reading = read.get((number, spec))
                events.add_metric(labels, 0 if reading is None else reading.events)
                if reading is not None:
                    for family, one in ((value, reading.value), (low, reading.low), (high, reading.high)):
                        family.add_metric(labels, one)
        with self._lock:
            self._families = [value, low, high, events, self._alerts(self._watcher.states)]

    def _alerts(self, states: dict[str, State]) -> Any:
        found = GaugeMetricFamily(
            "luthier_alert_state", "0 inactive, 1 pending, 2 firing.", labels=("monitor", "alert")
        )
        for name, state in states.items():
            found.add_metric([self._watcher.plan.name, name], _STATES[state.status])
        return found

    def collect(self) -> Iterator[Any]:
        """The families of the last look."""
        with self._lock:
            yield from self._families


def serve(exposed: Exposed, host: str, port: int) -> Any:
    """Answer `/metrics` in a thread; returns what shuts it down."""
    from prometheus_client import start_http_server

    registry = CollectorRegistry()
    registry.register(exposed)
    server, _ = start_http_server(port, addr=host, registry=registry)
    return server
