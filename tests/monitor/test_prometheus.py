"""The exported rules fire when the alerts here do: told by Prometheus' own `promtool`, and by a real server."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.monitor.alerts import Alert, AlertState, advance_alert_state
from luthier.monitor.evaluator import condition_holds
from luthier.monitor.plan import AlertRule, MonitorPlan, parse_alert_rules
from luthier.monitor.prometheus import (
    MonitorCollector,
    render_grafana_dashboard,
    render_prometheus_rules,
    serve_prometheus_metrics,
    window_label,
)
from luthier.monitor.signal import Signal, SignalValue
from watching import desk_traffic, evaluator, free_port, plan_of

MINUTES = 80
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
FORS, KEEPS = ("0s", "2m", "5m"), ("0s", "3m")
CLEARS, NO_DATA = (None, "accuracy > 0.95 on 200 labels"), ("ok", "keep", "alert")


def _alerts() -> list[Alert]:
    """Every mixture of what may be said of an alert."""
    mixtures = itertools.product(FORS, KEEPS, CLEARS, NO_DATA, (False, True))
    return [
        Alert.model_validate(
            {
                "name": f"a{number}",
                "expr": "accuracy < 0.9 on 200 labels",
                "for": held,
                "keep_firing_for": kept,
                "clear": clear,
                "no_data": no_data,
                "significant": certain,
                "min_events": 50,
            }
        )
        for number, (held, kept, clear, no_data, certain) in enumerate(mixtures)
    ]


def _readings(seed: int) -> list[SignalValue | None]:
    """A number that wanders about its limits, with too few events now and then, and at times nothing at all."""
    chance = random.Random(seed)
    value, found = 0.95, list[SignalValue | None]()
    while len(found) < MINUTES:
        stretch, what = chance.randint(1, 7), chance.random()
        for _ in range(stretch):
            value = min(1.0, max(0.8, value + chance.gauss(0, 0.04)))
            events = 10 if what < 0.15 else 200
            found.append(None if what > 0.9 else SignalValue(value, value - 0.02, value + 0.02, events))
    return found[:MINUTES]


def _plan(alerts: Sequence[Alert]) -> MonitorPlan:
    signals = [Signal.parse({"kind": "metric", "metric": "accuracy"})]
    made = parse_alert_rules(alerts, signals, {})
    return MonitorPlan(name="desk", every_s=60, signals=signals, rules=made, references=Path(), report={}, seed=0)


def _firing(rule: AlertRule, readings: Sequence[SignalValue | None]) -> list[bool]:
    """Whether the alert fires here, minute by minute."""
    state, found = AlertState(), list[bool]()
    for minute, reading in enumerate(readings):
        state = advance_alert_state(rule.alert, state, holds=condition_holds(rule, state, reading), at=60.0 * minute)
        found.append(state.status == "firing")
    return found


def _series(plan: MonitorPlan, readings: Sequence[SignalValue | None]) -> list[dict[str, str]]:
    labels = f'monitor="{plan.name}",signal="accuracy",window="{window_label(plan.rules[0].when.window)}"'
    columns = {
        "": ["stale" if one is None else f"{one.value:.10f}" for one in readings],
        "_low": ["stale" if one is None else f"{one.low:.10f}" for one in readings],
        "_high": ["stale" if one is None else f"{one.high:.10f}" for one in readings],
        "_events": ["0" if one is None else str(one.events) for one in readings],
    }
    return [
        {"series": f"luthier_signal{suffix}{{{labels}}}", "values": " ".join(values)}
        for suffix, values in columns.items()
    ]


def _expected(rule: AlertRule, minute: int, fires: bool, said: dict[str, Any]) -> dict[str, Any]:
    """What promtool is told to find; it compares whole alerts, so their texts are left out of the rules."""
    told = [{"exp_labels": said["labels"]}] if fires else []
    return {"eval_time": f"{minute}m", "alertname": rule.name, "exp_alerts": told}


@needs_promtool
@pytest.mark.parametrize("seed", range(4))
def test_prometheus_fires_the_same_minute(seed: int, tmp_path: Path) -> None:
    plan, readings = _plan(_alerts()), _readings(seed)
    document = render_prometheus_rules(plan)
    by_name = {one["alert"]: one for one in document["groups"][0]["rules"]}
    for one in by_name.values():
        one.pop("annotations")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(document))
    checks, fired = [], 0
    for rule in plan.rules:
        for minute, fires in enumerate(_firing(rule, readings)):
            checks.append(_expected(rule, minute, fires, by_name[rule.name]))
            fired += fires
    told = {"interval": "1m", "input_series": _series(plan, readings), "alert_rule_test": checks}
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [told]})
    )
    found = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr[:3000] + found.stdout[:3000]
    assert fired > 100, "nothing fired: the test tests nothing"


@needs_promtool
def test_promtool_takes_every_rule(tmp_path: Path) -> None:
    alerts = [
        {"expr": "latency.p95 > 2 over 10m", "for": "90s", "keep_firing_for": "1h", "act": "look `there` {{ now }}"},
        {"expr": "macro_f1 < report - 3%", "significant": True, "severity": "critical"},
        {"expr": "throughput < 0.5", "no_data": "alert"},
    ]
    plan = plan_of(
        tmp_path, ["latency", "throughput", {"kind": "metric", "metric": "macro_f1"}], alerts, report={"macro_f1": 0.9}
    )
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(render_prometheus_rules(plan)))
    found = subprocess.run(
        ["promtool", "check", "rules", "rules.yaml"], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert "3 rules found" in found.stdout


def test_the_dashboard_has_a_panel_for_each_number_with_its_limit(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ["latency", "error_rate"], ["latency.p95 > 2 over 10m", "error_rate > 5%"])
    drawn = json.loads(json.dumps(render_grafana_dashboard(plan)))
    titles = [panel["title"] for panel in drawn["panels"]]
    assert titles.count("latency.p95 (10m)") == 1
    assert "error_rate (5m)" in titles
    limited = next(panel for panel in drawn["panels"] if panel["title"] == "latency.p95 (10m)")
    assert limited["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {"color": "red", "value": 2.0}
    assert len({panel["id"] for panel in drawn["panels"]}) == len(drawn["panels"])


def _ask(port: int, path: str) -> Any:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return json.loads(answer.read())


@needs_prometheus
@pytest.mark.slow
def test_a_real_prometheus_loads_the_rules_and_fires_on_the_same_log(tmp_path: Path) -> None:
    alerts = [
        {"expr": "accuracy < 0.9 on 200 labels", "name": "wrong"},
        {"expr": "latency.p95 > 20 over 10m", "name": "slow"},
    ]
    signals = ["latency", {"kind": "metric", "metric": "accuracy"}]
    plan = plan_of(tmp_path, signals, alerts, every_s=1)
    watching = evaluator(plan, tmp_path)
    scraped, port = free_port(), free_port()
    exposed = MonitorCollector(watching)
    server = serve_prometheus_metrics(exposed, "127.0.0.1", scraped)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(render_prometheus_rules(plan)))
    (tmp_path / "prometheus.yaml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": ["rules.yaml"],
                "scrape_configs": [{"job_name": "luthier", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}],
            }
        )
    )
    command = [
        "prometheus",
        "--config.file=prometheus.yaml",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(command, cwd=tmp_path, stderr=log)
    try:
        here, there = _side_by_side(watching, exposed, port)
    finally:
        running.terminate()
        running.wait(timeout=30)
        server.shutdown()
        server.server_close()
    assert here == [set(), {"wrong"}, set()]
    assert there == here, (tmp_path / "log").read_text()[-2000:]


def _side_by_side(watching: Any, exposed: MonitorCollector, port: int) -> tuple[list[set[str]], list[set[str]]]:
    """What fires here and there after three parts of a log: good, every second answer wrong, good again."""
    here, there = list[set[str]](), list[set[str]]()
    log = desk_traffic(900, wrong=[range(300, 600)], every_s=1)
    for part in range(3):
        end = log[0].timestamp.timestamp() + 300 * (part + 1)
        for event in log:
            if end - 300 <= event.timestamp.timestamp() < end:
                watching.add(event)
        watching.look(end)
        exposed.take(end)
        here.append({name for name, state in watching.states.items() if state.status == "firing"})
        there.append(_settled(port, here[-1]))
    return here, there


def _settled(port: int, wanted: set[str]) -> set[str]:
    """What fires there, as soon as it is what is wanted, or after half a minute."""
    found: set[str] = set()
    for _ in range(60):
        time.sleep(0.5)
        try:
            told = _ask(port, "/api/v1/alerts")["data"]["alerts"]
            targets = _ask(port, "/api/v1/targets")["data"]["activeTargets"]
        except OSError:
            continue
        found = {one["labels"]["alertname"] for one in told if one["state"] == "firing"}
        fresh = any(one["health"] == "up" for one in targets)
        if fresh and found == wanted and _seen_again(port):
            return found
    return found


def _seen_again(port: int) -> bool:
    """Two more evaluations, so that an empty answer is no answer from before the first scrape."""
    time.sleep(3)
    return bool(_ask(port, "/api/v1/query?query=luthier_signal_events")["data"]["result"])
