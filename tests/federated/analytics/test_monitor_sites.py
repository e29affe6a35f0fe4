"""A released model watched at all sites by counts: numbers of all requests, alerts, and what stays at a site."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.cli.app import run_command
from luthier.core.component import components_by_kind
from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.federated.analytics.answer_history import AnswerHistory
from luthier.federated.analytics.query import SiteRows
from luthier.federated.analytics.watch import SiteAlertEvaluator, SiteMonitoring
from luthier.federated.errors import OrderError
from luthier.federated.queries.monitor import MonitorQuery
from luthier.federated.sites.policy import SitePolicy
from luthier.federated.steps.monitor_sites import MonitorSites
from luthier.metrics.counts import move_small_counts
from luthier.monitor.evaluator import AlertEvaluator
from luthier.monitor.plan import MonitorPlan
from luthier.monitor.signal import Signal
from luthier.traces.record import Feedback, Trace
from tiny_models import own_cache, tickets, write_csv
from watching import BEGIN, desk_traffic, plan_of, trace, write_log

NAMES = ("north", "south", "west")
WINDOW = 3600
SIGNALS: list[Any] = [
    "latency", "error_rate", "throughput", "length", "tokens", "rating", "refusal_rate",
    {"kind": "metric", "metric": "accuracy"},
]  # fmt: skip
WRONG = {"expr": "accuracy < 0.8 over 1h", "name": "wrong", "min_events": 20}
START = int(BEGIN.timestamp())


def site_of(event: Trace | Feedback) -> str:
    number = int((event.id if isinstance(event, Trace) else event.trace).removeprefix("r"))
    return NAMES[number % 3]


def write_sites(folder: Path, events: list[Trace | Feedback]) -> dict[str, str]:
    """A log for each site, with its own requests and what was said of them."""
    for name in NAMES:
        write_log(folder / f"{name}.jsonl", [event for event in events if site_of(event) == name])
    return {name: f"{name}.jsonl" for name in NAMES}


def build_step(folder: Path, events: list[Trace | Feedback], **settings: Any) -> MonitorSites:
    given = {"kind": "monitor_sites", "monitor": "monitor", "window": WINDOW, "least_rows": 1}
    return MonitorSites.model_validate({**given, "sites": write_sites(folder, events), **settings})


def open_evaluator(folder: Path, plan: MonitorPlan, step: MonitorSites, say: Any = print) -> SiteAlertEvaluator:
    monitoring = SiteMonitoring(step=step, digest="ab" * 16, recipe_dir=folder, kept=folder / "kept", say=say)
    return SiteAlertEvaluator(plan, RunContext(recipe_dir=folder), monitoring)


@pytest.mark.parametrize("secure", [False, True])
def test_sums_tell_what_all_requests_would(tmp_path: Path, secure: bool) -> None:
    events = [
        event for event in desk_traffic(100, wrong=[range(40, 80)]) if event.timestamp.timestamp() < START + WINDOW
    ]
    events += [trace(200 + at, status=500, answer=None) for at in range(6)]
    events.sort(key=lambda event: event.timestamp)
    plan = plan_of(tmp_path, SIGNALS)
    pooled = AlertEvaluator(plan, RunContext(recipe_dir=tmp_path))
    for event in events:
        pooled.add(event)
    watching = open_evaluator(tmp_path, plan, build_step(tmp_path, events, secure=secure))
    watching.ask(START + WINDOW)
    spec = Window(seconds=WINDOW)
    compared = set()
    for signal in plan.signals:
        for number in signal.list_summed_numbers():
            whole = replace_window(plan, tmp_path, events, signal, number)
            value = watching.reading(number, spec, START + WINDOW)
            assert (value is None) == (whole is None), number
            if value is not None and whole is not None:
                near = {"latency": 0.06, "throughput": 0.02}.get(signal.called, 1e-9)
                assert value.value == pytest.approx(whole.value, rel=near), number
                if number in ("error_rate", "accuracy", "length.cut"):
                    assert (value.low, value.high) == pytest.approx((whole.low, whole.high))
                compared.add(signal.called)
    assert {"latency", "error_rate", "accuracy", "length", "tokens", "throughput"} <= compared


def replace_window(plan: MonitorPlan, folder: Path, events: list[Any], signal: Signal, number: str) -> Any:
    """What the signal says of all requests together."""
    from luthier.monitor.signal import SignalRow, WindowSpan

    traces = {event.id: event for event in events if isinstance(event, Trace)}
    rows = []
    for event in events:
        feedback = event if isinstance(event, Feedback) else None
        if signal.of == ("requests" if feedback is None else "feedback"):
            value = signal.row(event if feedback is None else traces[feedback.trace], feedback)
            if value is not None:
                rows.append(SignalRow(len(rows), value, "r"))
    return signal.measure(rows, WindowSpan(WINDOW, len(rows))).get(number) if rows else None


@pytest.mark.slow
def test_a_process_for_each_site_tells_the_same(tmp_path: Path) -> None:
    texts = [row["message"] for row in tickets(130)]
    plan = plan_of(tmp_path, [*SIGNALS, {"kind": "drift", "rows": 90}], texts=texts)
    events = desk_traffic(300, wrong=[range(40, 80)])
    here = open_evaluator(tmp_path, plan, build_step(tmp_path, events))
    apart = tmp_path / "apart"
    apart.mkdir()
    step = build_step(apart, events, secure=True, transport={"kind": "processes", "wait_s": 300})
    told = list[str]()
    there = open_evaluator(apart, plan, step, told.append)
    for hour in (1, 2):
        for watching in (here, there):
            watching.ask(START + hour * WINDOW)
    [first, second] = (there._counts[START + hour * WINDOW] for hour in (1, 2))
    assert first.total == here._counts[START + WINDOW].total != second.total
    assert second.total == here._counts[START + 2 * WINDOW].total
    assert all(line.startswith("counted the window") for line in told)
    assert first.sites == {}, "counts are masked between processes, too"
    (apart / "west.jsonl").unlink()
    said = list[str]()
    open_evaluator(apart, plan, step, said.append).ask(START + 3 * WINDOW)
    assert "site west refuses: no requests are kept here" in said[0]


@pytest.mark.parametrize("least", [1, 10])
def test_drift_is_told_against_each_sites_own_training_rows(tmp_path: Path, least: int) -> None:
    """A site has some 37 requests, so hardly a tenth of them holds ten: small cells may not look like drift."""
    texts = [row["message"] for row in tickets(130)]
    plan = plan_of(tmp_path, [{"kind": "drift", "rows": 90}], texts=texts)
    usual = [event for event in desk_traffic(110) if isinstance(event, Trace)]
    strange = [event.model_copy(update={"messages": trace(1, "zebra quartz " * 30).messages}) for event in usual]
    values = []
    for at, events in enumerate((usual, strange)):
        folder = tmp_path / str(at)
        folder.mkdir()
        watching = open_evaluator(folder, plan, build_step(folder, events, least_rows=least))
        watching.ask(START + WINDOW)
        values.append(watching.reading("drift.apart", Window(seconds=WINDOW), START + WINDOW))
    assert values[0] is not None
    assert values[1] is not None
    assert values[0].low < 0.6
    assert values[1].low > 0.9
    assert watching.reading("drift.evidence", Window(seconds=WINDOW), START + WINDOW) is None


def test_an_alert_on_all_sites_names_the_worst(tmp_path: Path) -> None:
    events: list[Trace | Feedback] = []
    for event in desk_traffic(360, wrong=[range(120, 240)]):
        worse = isinstance(event, Feedback) and 120 <= int(event.trace[1:]) < 240 and site_of(event) == "south"
        events.append(event.model_copy(update={"label": "other"}) if worse else event)
    plan = plan_of(tmp_path, SIGNALS, [WRONG])
    watching = open_evaluator(tmp_path, plan, build_step(tmp_path, events, least_rows=3))
    messages = [message for hour in (1, 2, 3) for message in watching.look(START + hour * WINDOW)]
    assert [(message.alert, message.tells) for message in messages] == [("wrong", "firing"), ("wrong", "resolved")]
    assert list((watching._monitoring.kept / "asked").iterdir()) == [], "what is in progress alone is there"
    fired = messages[0]
    assert fired.worst is not None
    assert (fired.worst.column, fired.worst.value) == ("site", "south")
    assert fired.examples == ()
    assert "worst where site is south" in fired.text()
    again = open_evaluator(tmp_path, plan, build_step(tmp_path, []), pytest.fail)
    assert again.reading("accuracy", Window(seconds=3 * WINDOW), START + 3 * WINDOW) is not None, "counts are kept"


def test_a_window_of_a_rule_is_made_of_whole_ones(tmp_path: Path) -> None:
    events = desk_traffic(300)
    watching = open_evaluator(tmp_path, plan_of(tmp_path, SIGNALS), build_step(tmp_path, events))
    for hour in (1, 2):
        watching.ask(START + hour * WINDOW)
    one, two, last = (
        watching.reading("accuracy", spec, START + 2 * WINDOW)
        for spec in (Window(seconds=WINDOW), Window(seconds=2 * WINDOW), Window(events=150))
    )
    assert one is not None
    assert two is not None
    assert two.events > one.events
    assert last == two


def test_sites_that_do_not_answer_leave_a_window_without_data(tmp_path: Path) -> None:
    said = list[str]()
    step = build_step(tmp_path, desk_traffic(100))
    (tmp_path / "west.jsonl").unlink()
    watching = open_evaluator(tmp_path, plan_of(tmp_path, SIGNALS, [WRONG]), step, said.append)
    assert watching.look(START + WINDOW) == []
    assert "site west refuses: no requests are kept here" in said[0]


def test_a_window_that_is_not_over_is_not_counted(tmp_path: Path) -> None:
    now = int(time.time())
    query = MonitorQuery.model_validate({"signals": ["latency"], "since": now - 60, "until": now + 60})
    write_log(tmp_path / "log.jsonl", [])
    from luthier.data.check import RowNames

    with pytest.raises(OrderError, match="not over"):
        query.count(SiteRows(None, traffic=tmp_path / "log.jsonl"), RowNames())


def test_windows_that_share_seconds_have_one_answer(tmp_path: Path) -> None:
    answered = AnswerHistory(tmp_path, b"secret")
    assert answered.find_window(0, 100) == "0-100"
    assert answered.find_window(0, 100) == "0-100"
    assert answered.find_window(100, 200) == "100-200"
    assert answered.find_window(50, 150) is None
    assert answered.find_window(0, 99) is None


def test_every_signal_that_counts_tell_adds_one_for_each_event(tmp_path: Path) -> None:
    plain = {"metric": {"kind": "metric", "metric": "accuracy"}}
    for kind, signal in components_by_kind(Signal).items():
        try:
            own = signal.parse(plain.get(kind, kind))
        except ValidationError:
            continue
        groups = own.list_count_groups()
        assert len({group.name for group in groups}) == len(groups), kind
        assert set(own.list_summed_numbers()) <= set(own.numbers()), kind
        if groups and not own.learns:
            counts = move_small_counts(groups, own.count([], tmp_path, RunContext(recipe_dir=tmp_path)), 1)
            assert set(own.measure_counts(counts, 60)) == set(own.list_summed_numbers()), kind


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
  monitor:
    kind: monitor
    data: data
    signals: [latency, error_rate, {kind: metric, metric: accuracy}, unknown_words, {kind: drift, rows: 80}]
    alerts:
      - {expr: "accuracy < 0.9 over 1h", name: wrong}
    channels: [{kind: log, path: told.jsonl}]
  sites:
    kind: monitor_sites
    monitor: monitor
    sites: {north: north.jsonl, south: south.jsonl, west: west.jsonl}
    window: 1h
    least_rows: 3
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_csv(tmp_path / "tickets.csv", tickets(130))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_watches_all_sites(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end = (int(time.time()) - 300) // WINDOW * WINDOW
    moved = [
        event.model_copy(update={"timestamp": event.timestamp + timedelta(seconds=end - WINDOW - START)})
        for event in desk_traffic(100, wrong=[range(100)])
    ]
    write_sites(desk, moved)
    assert run_command(["run"]) == 0
    assert "unknown_words is left out" in capsys.readouterr().err
    assert run_command(["monitor", "run", "recipe.yaml:sites", "--once"]) == 0
    lines = [json.loads(line) for line in (desk / "told.jsonl").read_text().splitlines()]
    assert [(line["alert"], line["tells"]) for line in lines] == [("wrong", "firing")]
    capsys.readouterr()
    assert run_command(["monitor", "show", "recipe.yaml:sites", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {"accuracy", "error_rate", "drift.apart"} <= {line["number"] for line in shown["numbers"]}
    assert run_command(["monitor", "replay", "--recipe", "recipe.yaml:sites"]) == 2
    assert "requests lie at the sites" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("alert", "message"),
    [
        ("drift.evidence > 2", "drift.evidence cannot be told by counts of sites"),
        ("unknown_words.change > 2 over 2h", "cannot be told by counts of sites"),
        ("accuracy < 0.9 over 10m", "sites count windows of 1h"),
    ],
)
def test_alerts_that_sums_cannot_answer_are_refused(
    desk: Path, capsys: pytest.CaptureFixture[str], alert: str, message: str
) -> None:
    text = RECIPE.replace('{expr: "accuracy < 0.9 over 1h", name: wrong}', f'"{alert}"')
    (desk / "recipe.yaml").write_text(text)
    write_sites(desk, desk_traffic(10))
    assert run_command(["run"]) != 0
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": {}}, "name the folders with requests"),
        ({"sites": {"north": "a", "south": "b"}, "secure": True}, "masks need 3"),
        ({"sites": {}, "transport": "processes"}, "name the folders with requests"),
        (
            {"sites": {"north": "a"}, "transport": {"kind": "folder", "path": "m", "member_cards": {"north": "c"}}},
            "or a transport to sites elsewhere",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MonitorSites.model_validate({"kind": "monitor_sites", "monitor": "monitor", **settings})


def test_a_site_needs_a_word_in_its_policy() -> None:
    given = {"name": "north", "coordinator": "card.json", "recipe": "recipe.yaml"}
    query = MonitorQuery.model_validate({"signals": ["latency"], "since": 0, "until": 60})
    from luthier.federated.messaging.messages import SiteQuestion

    question = SiteQuestion(federation="ab" * 16, query=query.settings(), stage="counts", code="", seed=0, least_rows=1)
    with pytest.raises(OrderError, match="questions of the kind monitor are not answered"):
        SitePolicy.model_validate(given).check_question(question, query, None)
    allowed = SitePolicy.model_validate({**given, "queries": ["monitor"]})
    allowed.check_question(question, query, None)
    looking = {"kind": "schema_validity", "form": {"type": "string", "pattern": "Anna Meier"}}
    metric = {"kind": "metric", "metric": {"kind": "json_valid", "obeys": {"pattern": "Anna Meier"}}}
    for signal, message in ((looking, "counts of schema_validity may not"), (metric, "sums of json_valid may not")):
        query = MonitorQuery.model_validate({"signals": [signal], "since": 0, "until": 60})
        with pytest.raises(OrderError, match=message):
            allowed.check_question(question, query, None)
    named = SitePolicy.model_validate({**given, "queries": ["monitor"], "signals": [looking]})
    named.check_question(question, MonitorQuery.model_validate({"signals": [looking], "since": 0, "until": 60}), None)
