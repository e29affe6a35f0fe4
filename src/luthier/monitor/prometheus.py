"""Metrics, alert rules and a Grafana dashboard for Prometheus.

`luthier monitor run` exposes the numbers of the last look and the states of the alerts:

    luthier_signal{monitor, signal, window}          a number; absent without data
    luthier_signal_low, luthier_signal_high          the ends of its 95 % interval
    luthier_signal_events{monitor, signal, window}   the events in the window; 0 without data
    luthier_alert_state{monitor, alert}              0 inactive, 1 pending, 2 firing

`clear` and `no_data: keep` depend on whether the alert already fires, so their rules read Prometheus' own ALERTS.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from luthier.core.expressions import ThresholdExpression, Window, format_duration
from luthier.monitor.alerts import AlertState
from luthier.monitor.evaluator import AlertEvaluator
from luthier.monitor.plan import AlertRule, MonitorPlan

PREFIX = "luthier_signal"
_OPPOSITE = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}


def window_label(spec: Window) -> str:
    """A window as a label's value: `10m`, `200 events`."""
    return f"{spec.events} events" if spec.events else format_duration(spec.seconds)


def render_prometheus_rules(plan: MonitorPlan) -> dict[str, Any]:
    """A file of rules as Prometheus loads it."""
    alerts = [_alert(plan, rule) for rule in plan.rules]
    group = {"name": f"luthier {plan.name}", "interval": format_duration(plan.every_s), "rules": alerts}
    return {"groups": [group]}


def _alert(plan: MonitorPlan, rule: AlertRule) -> dict[str, Any]:
    alert = rule.alert
    description = f"{rule.when.name} is {{{{ $value | humanize }}}}; the limit is {rule.limit:.6g}"
    found: dict[str, Any] = {"alert": rule.name, "expr": render_promql(plan, rule)}
    if alert.hold:
        found["for"] = format_duration(alert.hold)
    if alert.keep_firing_for:
        found["keep_firing_for"] = format_duration(alert.keep_firing_for)
    labels = {"severity": alert.severity, "monitor": plan.name}
    annotations = {"summary": alert.expr, "description": description}
    if alert.act:
        annotations["action"] = alert.act.replace("{{", '{{ "{{" }}')
    return {**found, "labels": labels, "annotations": annotations}


def render_promql(plan: MonitorPlan, rule: AlertRule) -> str:
    """The condition in PromQL; each part is of one series without labels, so that they can be joined."""
    enough = f"{_series(plan, rule.when, '_events')} >= {rule.enough}"
    start = _series(plan, rule.when, _end(rule))
    parts = [f"({start} {rule.when.sign} {_number(rule.limit)} and {enough})"]
    firing = f'max(ALERTS{{alertname="{rule.name}",monitor="{plan.name}",alertstate="firing"}})'
    on = _series(plan, rule.when, "")
    if rule.clear is not None:
        back = f"{on} {_OPPOSITE[rule.clear.sign]} {_number(rule.clear_limit)}"
        parts.append(f"({back} and {enough} and {firing})")
    elif rule.alert.significant:
        parts.append(f"({on} {rule.when.sign} {_number(rule.limit)} and {enough} and {firing})")
    if rule.alert.no_data == "keep":
        parts.append(f"({firing} unless {enough})")
    elif rule.alert.no_data == "alert":
        parts.append(f"(vector(1) unless {enough})")
    return " or ".join(parts)


def _end(rule: AlertRule) -> str:
    """Return the series that is compared with the limit: the number, or the end of its interval."""
    if not rule.alert.significant:
        return ""
    return "_low" if rule.when.upward else "_high"


def _series(plan: MonitorPlan, when: ThresholdExpression, suffix: str) -> str:
    labels = f'monitor="{plan.name}",signal="{when.name}",window="{window_label(when.window)}"'
    return f"max({PREFIX}{suffix}{{{labels}}})"


def _number(value: float) -> str:
    return repr(float(value))


def render_grafana_dashboard(plan: MonitorPlan) -> dict[str, Any]:
    """A Grafana dashboard: one panel a number, with its interval and the limits of its alerts."""
    numbers: dict[tuple[str, Window], list[AlertRule]] = {}
    for signal, spec in plan.watched():
        for number in signal.numbers():
            numbers.setdefault((number, spec), [])
    for rule in plan.rules:
        numbers[rule.when.name, rule.when.window].append(rule)
    panels = [_panel(plan, index, *key, mine) for index, (key, mine) in enumerate(numbers.items())]
    return {
        "title": f"Luthier: {plan.name}",
        "uid": f"luthier-{plan.name}"[:40].replace(":", "-").replace("/", "-"),
        "tags": ["luthier"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": format_duration(plan.every_s),
        "time": {"from": "now-7d", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": panels,
    }


def _panel(plan: MonitorPlan, index: int, number: str, spec: Window, mine: list[AlertRule]) -> dict[str, Any]:
    labels = f'monitor="{plan.name}",signal="{number}",window="{window_label(spec)}"'
    names = {"": number, "_low": "low", "_high": "high"}
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": "red", "value": rule.limit} for rule in mine if rule.when.upward][:1]
    if any(not rule.when.upward for rule in mine):
        limit = next(rule.limit for rule in mine if not rule.when.upward)
        steps = [{"color": "red", "value": None}, {"color": "green", "value": limit}]
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": f"{number} ({window_label(spec)})",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"h": 8, "w": 8, "x": 8 * (index % 3), "y": 8 * (index // 3)},
        "targets": [
            {"refId": chr(65 + at), "expr": f"{PREFIX}{suffix}{{{labels}}}", "legendFormat": legend}
            for at, (suffix, legend) in enumerate(names.items())
        ],
        "fieldConfig": {
            "defaults": {
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": "line" if mine else "off"}},
            },
            "overrides": [],
        },
    }


_LABELS = ("monitor", "signal", "window")
_STATES = {"inactive": 0, "pending": 1, "firing": 2}


class MonitorCollector(Collector):
    """A Prometheus collector that exports the signals of the last evaluation."""

    def __init__(self, evaluator: AlertEvaluator) -> None:
        self._watcher = evaluator
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
                    for family, entry in ((value, reading.value), (low, reading.low), (high, reading.high)):
                        family.add_metric(labels, entry)
        with self._lock:
            self._families = [value, low, high, events, self._alerts(self._watcher.states)]

    def _alerts(self, states: dict[str, AlertState]) -> Any:
        metric_family = GaugeMetricFamily(
            "luthier_alert_state", "0 inactive, 1 pending, 2 firing.", labels=("monitor", "alert")
        )
        for name, state in states.items():
            metric_family.add_metric([self._watcher.plan.name, name], _STATES[state.status])
        return metric_family

    def collect(self) -> Iterator[Any]:
        """The families of the last look."""
        with self._lock:
            yield from self._families


def serve_prometheus_metrics(exposed: MonitorCollector, host: str, port: int) -> Any:
    """Answer `/metrics` in a thread; returns what shuts it down."""
    from prometheus_client import start_http_server

    registry = CollectorRegistry()
    registry.register(exposed)
    server, _ = start_http_server(port, addr=host, registry=registry)
    return server
