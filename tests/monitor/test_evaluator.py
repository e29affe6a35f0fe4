"""Alerts evaluated over a log: what it says and when, what it joins, and how it goes on after a kill."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from luthier.core.component import Component
from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.metrics.metric import Metric
from luthier.monitor.alerts import AlertMessage
from luthier.monitor.channel import Channel, DeliveryError
from luthier.monitor.evaluator import EventFollower
from luthier.monitor.manager import AlertManager
from luthier.monitor.plan import MonitorPlan
from luthier.traces.record import Feedback, Trace
from tiny_models import tickets
from watching import BEGIN, desk_traffic, evaluator, label, plan_of, run, trace, write_log

ACCURACY = {"kind": "metric", "metric": "accuracy"}
WRONG = {"expr": "accuracy < 0.9 on 100 labels", "name": "wrong", "severity": "critical"}


def said(messages: list[AlertMessage]) -> list[tuple[str, str]]:
    return [(message.alert, message.tells) for message in messages]


def test_an_alert_fires_once_and_is_over_once_with_what_helps(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [ACCURACY], [WRONG])
    messages = list(run(evaluator(plan, tmp_path), desk_traffic(700, wrong=[range(200, 350)])))
    assert said(messages) == [("wrong", "firing"), ("wrong", "resolved")]
    fired, over = messages
    assert fired.value is not None
    assert fired.low is not None
    assert fired.low < fired.value < 0.9
    assert fired.events == 100
    assert fired.worst is not None
    assert fired.worst.reading < fired.value
    assert len(fired.examples) == 3
    assert fired.act == "luthier new NAME --from traces"
    assert fired.id != over.id
    assert over.since == fired.since


def test_the_slice_that_got_worst_is_named(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [ACCURACY], [WRONG])
    log = [
        trace(
            n,
            answer="billing" if n % 4 == 0 and n > 150 else "delivery",
            meta={"product": "new" if n % 4 == 0 else "old"},
        )
        for n in range(400)
    ]
    events = sorted([*log, *(label(one, "delivery", after_s=0.5) for one in log)], key=lambda one: one.timestamp)
    fired = next(message for message in run(evaluator(plan, tmp_path), events) if message.tells == "firing")
    assert fired.worst is not None
    assert (fired.worst.column, fired.worst.value) == ("product", "new")


def test_a_late_label_finds_its_request_and_a_lost_one_is_counted(tmp_path: Path) -> None:
    watching = evaluator(plan_of(tmp_path, [ACCURACY]), tmp_path)
    first = trace(1)
    watching.add(first)
    for number in range(2, 300):
        watching.add(trace(number))
    watching.add(label(first, "billing", after_s=86_400))
    watching.add(Feedback(trace="nobody", timestamp=BEGIN, label="billing"))
    reading = watching.reading("accuracy", Window(events=200), BEGIN.timestamp() + 90_000)
    assert reading is not None
    assert (reading.value, reading.events) == (0.0, 1)
    assert watching.unjoined == 1


def test_requests_of_other_models_are_not_watched(tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path, [ACCURACY, "throughput"], [WRONG]), models=frozenset({"support@prod", "d1"}))
    mine = desk_traffic(300)
    other = [
        one.model_copy(update={"model": "route@prod"} if isinstance(one, Trace) else {})
        for one in (event.model_copy(update=_other_id(event)) for event in desk_traffic(300, wrong=[range(300)]))
    ]
    alone, among = evaluator(plan, tmp_path), evaluator(plan, tmp_path)
    assert list(run(alone, mine)) == []
    assert list(run(among, sorted([*mine, *other], key=lambda one: one.timestamp))) == []
    assert (among.events_seen, among.unjoined) == (alone.events_seen, 0)
    by_digest = [one.model_copy(update={"release": "d1"}) if isinstance(one, Trace) else one for one in other]
    assert ("wrong", "firing") in said(list(run(evaluator(plan, tmp_path), by_digest)))


def _other_id(event: Trace | Feedback) -> dict[str, str]:
    field = "id" if isinstance(event, Trace) else "trace"
    return {field: f"other-{getattr(event, field)}"}


def test_of_one_persons_words_the_last_counts_and_of_several_people_each(tmp_path: Path) -> None:
    watching = evaluator(plan_of(tmp_path, [ACCURACY, "rating"]), tmp_path)
    one = trace(1)
    watching.add(one)
    for right, by in (("billing", "anna"), ("delivery", "anna"), ("billing", "ben")):
        watching.add(label(one, right, by=by, rating=1.0 if right == "delivery" else -1.0))
    at = BEGIN.timestamp() + 100
    accuracy = watching.reading("accuracy", Window(events=200), at)
    rating = watching.reading("rating", Window(events=100), at)
    assert accuracy is not None
    assert rating is not None
    assert (accuracy.value, accuracy.events) == (0.5, 2)
    assert (rating.value, rating.events) == (0.0, 2)


@pytest.mark.parametrize("name", ["macro_f1", "ece"])
def test_a_metric_is_the_evaluations_own(name: str, tmp_path: Path) -> None:
    log = desk_traffic(150, wrong=[range(150)])
    traces = [one for one in log if isinstance(one, Trace)]
    right = {one.trace: one.label for one in log if isinstance(one, Feedback)}
    watching = evaluator(plan_of(tmp_path, [{"kind": "metric", "metric": name}]), tmp_path)
    for event in log:
        watching.add(event)
    direct = Metric.parse(name).measure(
        [one.answer.content for one in traces if one.answer],
        [str(right[one.id]) for one in traces],
        label_scores=[one.scores or {} for one in traces],
    )
    at = log[-1].timestamp.timestamp() + 1
    whole, quick = (watching.reading(name, Window(events=200), at, ends=ends) for ends in (True, False))
    assert whole is not None
    assert quick is not None
    assert (whole.value, whole.low, whole.high) == pytest.approx((direct.value, direct.low, direct.high))
    assert quick.value == pytest.approx(direct.value)


def test_a_rule_against_the_report_uses_the_releases_own_figure(tmp_path: Path) -> None:
    alert = {"expr": "accuracy < report - 5% on 100 labels", "name": "worse"}
    plan = plan_of(tmp_path, [ACCURACY], [alert], report={"accuracy": 0.97})
    (fired, *_) = run(evaluator(plan, tmp_path), desk_traffic(400, wrong=[range(150, 400)]))
    assert fired.limit == pytest.approx(0.92)


def test_silence_is_an_alert_where_it_is_wanted(tmp_path: Path) -> None:
    alerts = [{"expr": "throughput < 0.01 over 5m", "no_data": "alert", "for": "2m", "name": "silent"}]
    plan = plan_of(tmp_path, ["throughput"], alerts)
    messages = list(run(evaluator(plan, tmp_path), desk_traffic(100, every_s=5), further_s=1200))
    assert said(messages) == [("silent", "firing")]


def test_looking_again_says_nothing_twice(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [ACCURACY], [WRONG])
    watching = evaluator(plan, tmp_path)
    for event in desk_traffic(300, wrong=[range(150, 300)]):
        watching.add(event)
    at = BEGIN.timestamp() + 300 * 30 + 60
    assert [len(watching.look(at + 60 * number)) for number in range(5)] == [1, 0, 0, 0, 0]


def test_a_new_topic_is_found_and_an_old_one_is_not(tmp_path: Path) -> None:
    alerts = [{"expr": "drift.evidence > 2", "name": "drift"}]
    texts = [row["message"] for row in tickets(280, seed=1)]
    plan = plan_of(tmp_path, [{"kind": "drift", "rows": 240}], alerts, texts=texts[:200])
    chance = random.Random(0)
    same = [trace(n, chance.choice(texts[200:])) for n in range(300)]
    assert list(run(evaluator(plan, tmp_path), same)) == []
    dishes = ("soup", "bread", "cheese", "pasta", "salad")
    new = [
        trace(n, f"Which {chance.choice(dishes)} goes with {chance.choice(dishes)} tonight?") for n in range(300, 400)
    ]
    (fired, *_) = run(evaluator(plan, tmp_path), [*same, *new])
    assert fired.at > new[0].timestamp
    assert "what speaks loudest" in fired.explanation
    assert fired.act.startswith("luthier traces show r")


class Broken(Channel):
    """A channel that fails while a file says so."""

    kind: str = "broken"

    def send(self, message: AlertMessage, post: RunContext) -> None:
        if (post.recipe_dir / "down").exists():
            raise DeliveryError("it is down")
        with (post.recipe_dir / "told").open("a") as file:
            file.write(f"{message.id}\n")


def desk_of(plan: MonitorPlan, folder: Path, heard: list[str] | None = None) -> AlertManager:
    say = (heard if heard is not None else []).append
    made = AlertManager(evaluator(plan, folder), [BROKEN], RunContext(recipe_dir=folder), folder / "state.json", say)
    made.recall()
    return made


BROKEN = Broken()


@pytest.fixture(autouse=True, scope="module")
def _no_member() -> Any:
    """What is defined here is no member for others."""
    from luthier.core import component

    component._MEMBERS["channel"].pop("broken")
    assert issubclass(Broken, Component)


def test_what_could_not_be_sent_is_sent_later_once(tmp_path: Path) -> None:
    plan, heard = plan_of(tmp_path, [ACCURACY], [WRONG]), list[str]()
    (tmp_path / "down").touch()
    desk_of(plan, tmp_path, heard).take(desk_traffic(300, wrong=[range(150, 300)]))
    assert any("it is down; it is tried again" in text for text in heard)
    assert not (tmp_path / "told").exists()
    (tmp_path / "down").unlink()
    again = desk_of(plan, tmp_path)
    for _ in range(3):
        again.send()
    assert len((tmp_path / "told").read_text().splitlines()) == 1


def test_a_monitor_that_is_started_again_goes_on_where_it_was(tmp_path: Path) -> None:
    """Cut at any place, the messages are those of one that was never stopped."""
    plan = plan_of(tmp_path, [ACCURACY], [WRONG])
    log = desk_traffic(500, wrong=[range(150, 250), range(350, 420)])
    whole = tmp_path / "whole"
    whole.mkdir()
    AlertManager(evaluator(plan, tmp_path), [BROKEN], RunContext(recipe_dir=whole), whole / "state.json", print).take(
        log
    )
    expected = (whole / "told").read_text().splitlines()
    assert len(expected) == 4
    cuts = sorted(random.Random(0).sample(range(1, len(log)), 6))
    for start, end in zip([0, *cuts], [*cuts, len(log)], strict=True):
        desk = desk_of(plan, tmp_path)
        desk.take(log[:start])
        desk.take(log[start:end])
        desk.remember()
    assert (tmp_path / "told").read_text().splitlines() == expected


_RUNS = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
from watching import desk_traffic, plan_of, evaluator
from luthier.core.context import RunContext
from luthier.monitor.channel import Channel
from luthier.monitor.manager import AlertManager
folder = Path({folder!r})
plan = plan_of(folder, [{{"kind": "metric", "metric": "accuracy"}}], {alerts!r})
channel = Channel.parse({{"kind": "log", "path": "told.jsonl"}})
desk = AlertManager(evaluator(plan, folder), [channel], RunContext(recipe_dir=folder), folder / "state.json", print)
desk.recall()
desk.send()
print("begun", flush=True)
for event in desk_traffic(500, wrong=[range(150, 250), range(350, 420)]):
    desk.take([event])
    time.sleep(0.0005)
(folder / "done").touch()
"""


@pytest.mark.slow
def test_killed_at_any_moment_no_message_is_lost_or_doubled(tmp_path: Path) -> None:
    alerts = [WRONG, {"expr": "accuracy < 0.95 on 50 labels", "name": "half"}]
    plan = plan_of(tmp_path, [ACCURACY], alerts)
    log = desk_traffic(500, wrong=[range(150, 250), range(350, 420)])
    expected = [message.id for message in run(evaluator(plan, tmp_path), log, further_s=-60)]
    text = _RUNS.format(tests=str(Path(__file__).parent.parent), folder=str(tmp_path), alerts=alerts)
    chance = random.Random(1)
    kills = 0
    while not (tmp_path / "done").exists():
        process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "begun"
        if kills < 12:
            time.sleep(chance.uniform(0.0, 0.6))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
    told = [json.loads(line)["id"] for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert told == expected
    assert kills > 3


def test_following_gives_each_event_once(tmp_path: Path) -> None:
    log, events = tmp_path / "log.jsonl", desk_traffic(40, every_s=10)
    following = EventFollower(log, BEGIN)
    got: list[Trace | Feedback] = []
    for count in (0, 5, 5, 33, 80):
        write_log(log, events[:count])
        got += following.fresh(BEGIN + timedelta(seconds=10 * count + 1))
    names = [(type(one).__name__, one.timestamp.astimezone(UTC)) for one in got]
    assert len(names) == len(set(names)) == 80


def test_a_request_that_was_written_late_is_followed_too(tmp_path: Path) -> None:
    log, (first, second) = tmp_path / "log.jsonl", (trace(1), trace(50))
    following = EventFollower(log, BEGIN)
    write_log(log, [second])
    until: datetime = BEGIN + timedelta(seconds=60)
    assert list(following.fresh(until)) == [second]
    write_log(log, [first, second])
    assert list(following.fresh(until + timedelta(seconds=60))) == [first]


def test_a_folder_is_read_on_from_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.traces import stream
    from luthier.traces.compact import compact_traffic_folder
    from luthier.traces.feedback import append_redacted_records
    from luthier.traces.retention import RetentionPolicy
    from luthier.traces.segment import list_segments

    chance = random.Random(5)
    log = [event.model_copy(update={"timestamp": event.timestamp}) for event in desk_traffic(60)]
    order = sorted(range(len(log)), key=lambda place: place + chance.randrange(6))  # written a little out of order
    following = EventFollower(tmp_path, BEGIN)
    got = list(following.fresh(BEGIN))
    append_redacted_records(tmp_path, [log[place] for place in order[:30]])
    got += following.fresh(log[40].timestamp)
    looks = []
    monkeypatch.setattr(stream, "iter_trace_events", lambda *_: looks.append(1) or iter(()))
    for begin in range(30, 120, 30):
        append_redacted_records(tmp_path, [log[place] for place in order[begin : begin + 30]])
        if begin == 60:
            compact_traffic_folder(tmp_path, RetentionPolicy(days=10_000), closed=list_segments(tmp_path), now=BEGIN)
        last = max(log[place].timestamp for place in order[: begin + 30])
        got += following.fresh(last + timedelta(seconds=1))
        assert list(following.fresh(last + timedelta(seconds=1))) == []
    assert looks == [], "the folder was read from its beginning"
    assert len(got) == len(log) == 120
    assert {(type(one), one.timestamp) for one in got} == {(type(one), one.timestamp) for one in log}


def test_after_a_long_time_a_folder_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.traces import stream
    from luthier.traces.feedback import append_redacted_records

    following = EventFollower(tmp_path, BEGIN)
    append_redacted_records(tmp_path, [trace(1), trace(100)])
    until = BEGIN + timedelta(seconds=60)
    assert [one.timestamp for one in following.fresh(until)] == [trace(1).timestamp]
    monkeypatch.setattr(stream, "GRACE_S", 0.0)
    append_redacted_records(tmp_path, [trace(50)])
    assert [one.timestamp for one in following.fresh(until + timedelta(seconds=60))] == [
        trace(50).timestamp,
        trace(100).timestamp,
    ]
