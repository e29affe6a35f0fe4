"""A recipe's monitor from the command line: made, shown, replayed, tested, exported, run."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from luthier.cli.app import run_command
from luthier.commands.monitor import open_monitor, watch_traffic
from luthier.core.errors import InputError
from luthier.recipe.workspace import Workspace
from luthier.traces.feedback import append_redacted_records
from luthier.traces.record import Trace
from tests.targets import artifact_of
from tiny_models import own_cache, tickets, write_csv
from watching import BEGIN, desk_traffic, write_log

MONITOR = """\
  monitor:
    kind: monitor
    data: data
    signals: [latency, error_rate, {kind: metric, metric: accuracy}, {kind: drift, rows: 80}, unknown_words]
    alerts:
      - {expr: "accuracy < 0.9 on 100 labels", name: wrong, severity: critical}
      - "drift.evidence > 2"
    channels: [{kind: log, path: told.jsonl}]
"""
RECIPE = """\
luthier: 1
name: desk
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    ops: [normalize]
    split: {test: 30}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitor")
    write_csv(folder / "tickets.csv", tickets(130))
    (folder / "recipe.yaml").write_text(RECIPE + MONITOR)
    write_log(folder / "log.jsonl", desk_traffic(500, wrong=[range(150, 250)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        assert run_command(["run"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(made))
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)
    monkeypatch.chdir(made)


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run_command(["monitor", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_artifact_holds_what_watching_needs_and_not_who_is_told() -> None:
    kept = artifact_of(":monitor").artifact
    assert {entry.path.split("/")[0] for entry in kept.manifest.files} == {"monitor.json", "references"}
    assert "channels" not in kept.manifest.settings


def test_replay_says_when_each_alert_would_have_fired(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "replay", "log.jsonl")
    assert [(one["alert"], one["tells"]) for one in found["messages"]] == [("wrong", "firing"), ("wrong", "resolved")]
    at = datetime.fromisoformat(found["messages"][0]["at"])
    assert BEGIN + timedelta(seconds=150 * 30) < at < BEGIN + timedelta(seconds=250 * 30)
    assert found["events"] == 1000
    assert found["firing"] == []
    assert run_command(["monitor", "replay", "log.jsonl"]) == 0
    printed = capsys.readouterr().out
    assert "critical: wrong (desk)" in printed
    assert "2 messages over 1,000 events" in printed


def test_replay_of_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "replay", "log.jsonl", "--until", "2026-11-23T01:00")
    assert found["messages"] == []
    assert 0 < found["events"] < 300


def test_what_traces_export_writes_replays_as_the_traffic_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_TRAFFIC", str(tmp_path / "traffic"))
    append_redacted_records(tmp_path / "traffic", desk_traffic(500, wrong=[range(150, 250)]))
    assert run_command(["traces", "export", str(tmp_path / "all.jsonl")]) == 0
    from_folder = told(capsys, "replay", str(tmp_path / "traffic"))
    assert from_folder["messages"]
    assert told(capsys, "replay", str(tmp_path / "all.jsonl")) == from_folder


def test_show_tells_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "show", "--log", "log.jsonl")
    numbers = {one["number"] for one in found["numbers"]}
    assert {"latency.p95", "error_rate", "accuracy", "drift.evidence", "drift.apart", "unknown_words.change"} <= numbers
    assert [one["alert"] for one in found["alerts"]] == ["wrong", "drift_evidence"]
    assert run_command(["monitor", "show", "--log", "log.jsonl"]) == 0
    assert "accuracy < 0.9 on 100 labels" in capsys.readouterr().out


def test_a_test_message_is_sent(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "test") == {"channels": [{"channel": "log", "came": "sent"}]}
    last = (made / "told.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["tells"] == "test"
    assert told(capsys, "test", "--channel", "pigeon", code=2)["error"]["kind"] == "UnknownName"


def test_export_writes_rules_and_a_dashboard(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "export", "prometheus", "--to", "prom")
    (group,) = yaml.safe_load((made / "prom" / "rules.yaml").read_text())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == ["wrong", "drift_evidence"]
    assert json.loads((made / "prom" / "dashboard.json").read_text())["title"] == "Luthier: desk"


def _live(folder: Path, minutes: float) -> list[Trace]:
    """The log, moved so that it ends some minutes ago."""
    log = desk_traffic(260, wrong=[range(150, 260)], every_s=2)
    shift = datetime.now(UTC) - log[-1].timestamp - timedelta(minutes=minutes)
    moved = [one.model_copy(update={"timestamp": one.timestamp + shift}) for one in log]
    write_log(folder / "live.jsonl", moved)
    return [one for one in moved if isinstance(one, Trace)]


def test_run_tells_once_and_goes_on(made: Path, tmp_path: Path) -> None:
    """A first look learns what was; what goes wrong afterwards is told, and not again by the next process."""
    opened = open_monitor(Workspace.open_current())
    (made / "told.jsonl").unlink(missing_ok=True)
    log = tmp_path / "live.jsonl"
    heard: list[str] = []

    def look() -> list[str]:
        return [one.tells for look in watch_traffic(opened, log, say=heard.append, once=True) for one in look.messages]

    log.write_text("")
    assert look() == []
    state = opened.kept / "state.json"
    _look_back(state, minutes=30)
    _live(tmp_path, minutes=1)
    assert look() == ["firing"]
    assert look() == []
    lines = [json.loads(line) for line in (made / "told.jsonl").read_text().splitlines()]
    assert [line["tells"] for line in lines] == ["firing"]


def test_a_first_look_tells_what_is_wrong_now(made: Path, tmp_path: Path) -> None:
    opened = replace(open_monitor(Workspace.open_current()), kept=tmp_path / "kept")
    (made / "told.jsonl").unlink(missing_ok=True)
    _live(tmp_path, minutes=2)
    (look,) = watch_traffic(opened, tmp_path / "live.jsonl", say=print, once=True)
    assert [(one.alert, one.tells) for one in look.messages] == [("wrong", "firing")]
    assert list(look.firing) == ["wrong"]
    assert len((made / "told.jsonl").read_text().splitlines()) == 1


def _look_back(state: Path, minutes: float) -> None:
    """As though the last look had been some minutes ago."""
    from luthier.core.files import dump_json_with_checksum, load_json_with_checksum, write_atomically

    kept = load_json_with_checksum(state.read_bytes(), state)
    write_atomically(state, dump_json_with_checksum({**kept, "looked": kept["looked"] - 60 * minutes}))


def test_two_processes_do_not_watch_at_once(tmp_path: Path) -> None:
    opened = open_monitor(Workspace.open_current())
    (tmp_path / "empty.jsonl").write_text("")
    with FileLock(opened.kept / "lock"), pytest.raises(InputError, match="watched by another process"):
        list(watch_traffic(opened, tmp_path / "empty.jsonl", say=print, once=True))


@pytest.mark.parametrize(
    ("monitor", "said"),
    [
        ("{kind: monitor, alerts: ['accurracy < 0.9']}", "number 'accurracy' is unknown"),
        ("{kind: monitor, alerts: ['latency.p95 > report']}", "name the evaluation in `evaluation`"),
        ("{kind: monitor, signals: [drift]}", "name their step in `data`"),
        ("{kind: monitor, signals: [latency, latency]}", "two signals give a number 'latency.p50'"),
        ("{kind: monitor, alerts: [{expr: 'latency.p95 > 1', fro: 5m}]}", "there is no setting 'fro'"),
        ("{kind: monitor, alerts: [{expr: 'latency.p95 > 1', for: soon}]}", "expected a time such as"),
        ("{kind: monitor, signals: [{kind: schema_validity, form: {type: 7}}]}", "is no JSON schema"),
        ("{kind: monitor, channels: [{kind: webhook}]}", "url"),
        ("{kind: monitor, signals: [{kind: metric, metric: perplexity}]}", "which requests do not have"),
    ],
)
def test_a_wrong_monitor_is_told_before_anything_runs(
    monitor: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "tickets.csv", tickets(60))
    (tmp_path / "recipe.yaml").write_text(f"{RECIPE}  monitor: {monitor}\n")
    assert run_command(["plan"]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "recipe.yaml:10" in printed


def test_no_monitor_and_no_log_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, "replay", "nothing.jsonl", code=2)["error"]["message"] == "there is no such log"
    (tmp_path / "log.jsonl").write_text('{"id": "a", "timestamp": "2026-01-01T00:00:00Z"}\n')
    error = told(capsys, "replay", str(tmp_path / "log.jsonl"), code=2)["error"]
    assert error["where"]["line"] == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert "no step of kind `monitor`" in told(capsys, "show", code=2)["error"]["message"]
