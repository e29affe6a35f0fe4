"""Review queues: what is drawn and with what chance, verdicts that reach the traffic once, and figures without bias."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from luthier.annotation.queue import AnnotationQueue, AnswerSubmission
from luthier.chat.messages import Message
from luthier.commands.review.fill import draw_requests, fill_review_queue
from luthier.commands.review.queues import (
    ReviewQueue,
    ReviewRule,
    ReviewSettings,
    build_rules,
    close_review_queue,
    create_review_queue,
    get_review_queue,
)
from luthier.commands.review.results import compute_review_results, list_fed_alerts
from luthier.commands.review.verdicts import (
    ask_second_opinion,
    decide_opinion,
    get_reviewed_item,
    iterate_reviewed_items,
    submit_verdict,
    write_verdicts,
)
from luthier.core.db import Ledger
from luthier.core.errors import InputError, UnknownName
from luthier.recipe.workspace import Workspace
from luthier.traces.feedback import append_redacted_records
from luthier.traces.filter import TraceFilter
from luthier.traces.record import Feedback, Trace
from luthier.traces.store import read_feedback, read_latest_feedback, read_traces_with_feedback

BEGIN = datetime.now(UTC) - timedelta(hours=20)
MONITOR = """\
luthier: 1
name: desk
steps:
  watch:
    kind: monitor
    signals: [error_rate, reviewed, {kind: reviewed, name: made_up, failure: made up}]
    alerts: ["reviewed < 0.8 on 50 ratings", "error_rate > 0.5"]
"""


def trace(number: int, **more: Any) -> Trace:
    told: dict[str, Any] = {
        "id": f"r{number}",
        "timestamp": BEGIN + timedelta(seconds=number),
        "model": "desk@prod",
        "release": "a" * 12 if number % 2 else "b" * 12,
        "messages": (Message(role="user", content=f"Where is parcel {number}? I am anna@example.org"),),
        "answer": Message(role="assistant", content="On its way."),
        "user": f"u{number}",
    }
    return Trace(**told | more)


def thumb(number: int, rating: float = -1) -> Feedback:
    return Feedback(trace=f"r{number}", timestamp=BEGIN + timedelta(hours=6), rating=rating, by=f"u{number}")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("LUTHIER_PII_KEY", "for tests")
    for name in ("LUTHIER_TRAFFIC", "LUTHIER_STORE", "LUTHIER_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk/recipe.yaml").write_text(MONITOR)
    return Workspace.open(tmp_path)


@pytest.fixture
def ledger(desk: Workspace) -> Iterator[Ledger]:
    with desk.open_ledger() as ledger:
        yield ledger


def keep(desk: Workspace, *records: Trace | Feedback) -> Path:
    folder = desk.folder / "desk/.luthier/traffic"
    append_redacted_records(folder, records)
    return folder


def queue_of(ledger: Ledger, **rules: Any) -> ReviewQueue:
    settings = ReviewSettings(rules=build_rules(**rules), since=BEGIN - timedelta(days=1))
    return create_review_queue(ledger, "All", settings, project="desk", by="olga")


def answer(
    ledger: Ledger, desk: Workspace, queue: ReviewQueue, by: str, verdict: str, item: int | None = None, **values: Any
) -> int:
    """Take the next request, and say something of it."""
    if item is None:
        leased = AnnotationQueue(ledger, queue.id).next_item(by)
        assert leased is not None
        item = leased.id
    types = values.get("types", [])
    given = AnswerSubmission(id=f"{by}-{item}-{random.random()}", item=item, values={"verdict": verdict, **values})
    submit_verdict(ledger, desk, queue.id, given, by=by, new_types=types)
    return item


def test_a_request_is_drawn_with_the_highest_chance_of_the_rules_that_mean_it(desk: Workspace) -> None:
    folder = keep(desk, *(trace(at) for at in range(400)), *(thumb(at) for at in range(0, 400, 10)))
    rules = build_rules(thumbs_down=True, chance=0.1, where="id = 'r7'")
    settings = ReviewSettings(rules=rules, since=BEGIN - timedelta(days=1), where="model = 'desk@prod'")
    meant, drawn = draw_requests(folder, settings, "x")
    assert meant == 400
    assert {one.id for one in drawn if one.probability == 1} == {"r7", *(f"r{at}" for at in range(0, 400, 10))}
    assert 20 < len([one for one in drawn if one.probability == 0.1]) < 60
    assert draw_requests(folder, settings, "x")[1] == drawn, "the lot of a request is always the same"
    assert {one.id for one in draw_requests(folder, settings, "y")[1]} != {one.id for one in drawn}


def test_shadows_that_differ_low_confidence_and_what_is_no_answer(desk: Workspace) -> None:
    other = Message(role="assistant", content="Lost.")
    shadows = [
        trace(at, id=f"s{at}", variant="shadow", meta={"shadow_of": f"r{at}"}, **({"answer": other} if at < 3 else {}))
        for at in range(6)
    ]
    unsure = trace(50, scores={"a": 0.4, "b": 0.6})
    failed = trace(60, status=500, answer=None, finish_reason="error")
    folder = keep(desk, *(trace(at) for at in range(10)), *shadows, unsure, failed)
    settings = ReviewSettings(rules=build_rules(shadow=True, low_confidence=0.7), since=BEGIN - timedelta(days=1))
    meant, drawn = draw_requests(folder, settings, "x")
    assert meant == 11
    assert {one.id: one.rules for one in drawn} == {
        **dict.fromkeys(("r0", "r1", "r2"), ("shadow disagrees",)),
        "r50": ("low confidence",),
    }


def test_alerts_name_requests(desk: Workspace, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    import luthier.commands.review.fill as module

    keep(desk, *(trace(at) for at in range(5)))
    queue = queue_of(ledger, alerts=True)
    said: list[str] = []
    assert fill_review_queue(ledger, desk, queue, said.append).added == 0
    assert "alerts name no requests" in said[0], "the monitor was not made yet"
    monkeypatch.setattr(module, "_alerted", lambda *_: frozenset({"r3"}))
    assert fill_review_queue(ledger, desk, queue).added == 1


def test_a_request_enters_once_as_a_copy_and_its_chance_rises(desk: Workspace, ledger: Ledger) -> None:
    folder = keep(desk, *(trace(at) for at in range(100)))
    queue = queue_of(ledger, chance=0.5, thumbs_down=True)
    first = fill_review_queue(ledger, desk, queue)
    assert (first.meant, first.changed) == (100, 0)
    assert 30 < first.added < 70
    assert fill_review_queue(ledger, desk, queue).added == 0
    (item, *_) = iterate_reviewed_items(ledger, queue)
    assert item.probability == 0.5
    assert "anna@example.org" not in str(item.shown)
    assert "[EMAIL]" in item.trace.messages[0].content
    keep(desk, *(thumb(at) for at in range(100)))
    second = fill_review_queue(ledger, desk, queue)
    assert (second.added, second.changed) == (100 - first.added, first.added)
    assert {one.probability for one in iterate_reviewed_items(ledger, queue)} == {1.0}
    for path in folder.rglob("*.parquet"):
        path.unlink()
    assert len([*iterate_reviewed_items(ledger, queue)]) == 100, "the traffic is gone, and the copies are there"
    close_review_queue(ledger, queue.id)
    assert AnnotationQueue(ledger, queue.id).next_item("rita") is None


def test_a_verdict_reaches_the_traffic_once_and_changes_no_chance(desk: Workspace, ledger: Ledger) -> None:
    folder = keep(desk, *(trace(at) for at in range(40)))
    queue = queue_of(ledger, chance=0.5, thumbs_down=True)
    fill_review_queue(ledger, desk, queue)
    item = answer(
        ledger, desk, queue, "rita", "wrong", correction="It is in the depot.", types=["made up", "rude"],
        marks={"spans": [{"text": "way", "label": "rude"}]},
    )  # fmt: skip
    found = get_reviewed_item(ledger, queue, item)
    (said,) = read_feedback(folder)
    assert (said.trace, said.rating, said.by, said.role) == (found.key, -1, "rita", "reviewer")
    assert (said.probability, said.types, said.correction) == (0.5, ("made up", "rude"), "It is in the depot.")
    assert (said.spans[0].start, said.spans[0].type) == (7, "rude")
    assert "rude" in get_review_queue(ledger, queue.id).failure_types, "it is offered next time"
    assert write_verdicts(ledger, desk, queue) == 0
    assert fill_review_queue(ledger, desk, queue).changed == 0, "a reviewer's verdict draws nothing"
    assert len([*read_feedback(folder)]) == 1
    (one,) = read_traces_with_feedback(folder, where=TraceFilter("types = 'rude'"))
    assert one.trace.id == found.key

    answer(ledger, desk, queue, "rita", "right", item)
    (said,) = read_latest_feedback(folder)[found.key]
    assert (said.rating, said.correction, said.types) == (1, "", ()), "what was said before is taken back"
    answer(ledger, desk, queue, "rita", "unsure")
    assert len(read_latest_feedback(folder)) == 1
    with pytest.raises(InputError):
        answer(ledger, desk, queue, "rita", "perhaps")
    with pytest.raises(UnknownName):
        answer(ledger, desk, queue, "ben", "right", item)


def test_a_second_opinion_is_kept_and_an_owner_decides(desk: Workspace, ledger: Ledger) -> None:
    folder = keep(desk, *(trace(at) for at in range(9)))
    queue = queue_of(ledger, chance=1)
    fill_review_queue(ledger, desk, queue)
    item = answer(ledger, desk, queue, "rita", "wrong", types=["incorrect"])
    ask_second_opinion(ledger, queue, item, "ben")
    with pytest.raises(InputError, match="already"):
        ask_second_opinion(ledger, queue, item, "ben")
    assert get_reviewed_item(ledger, queue, item).outcome is None, "it waits for the second"
    leased = AnnotationQueue(ledger, queue.id).next_item("ben")
    assert leased is not None
    assert leased.id == item
    answer(ledger, desk, queue, "ben", "right", item)
    doubted = get_reviewed_item(ledger, queue, item)
    assert doubted.is_disputed
    assert doubted.outcome is None
    assert compute_review_results(ledger, queue).disputed == 1
    decide_opinion(ledger, desk, queue, item, "ben", by="olga")
    decided = get_reviewed_item(ledger, queue, item)
    assert [one.by for one in decided.opinions] == ["rita", "ben"]
    assert decided.outcome is not None
    assert decided.outcome.verdict == "right"
    said = read_latest_feedback(folder)[decided.key]
    assert {(one.by, one.role, one.rating) for one in said} == {("rita", "reviewer", -1), ("ben", "owner", 1)}
    (entry,) = read_traces_with_feedback(folder, where=TraceFilter("rating > 0"))
    assert entry.trace.id == decided.key, "the owner's word counts"


def test_figures_of_all_requests_are_unbiased(desk: Workspace, ledger: Ledger) -> None:
    """What is complained of is reviewed ten times as often, and wrong: the plain share would be far off."""
    chance = random.Random(4)
    wrong = {at for at in range(1200) if chance.random() < (0.3 if at % 2 else 0.1)}
    told = {at for at in range(1200) if chance.random() < (0.5 if at in wrong else 0.01)}
    keep(desk, *(trace(at) for at in range(1200)), *(thumb(at) for at in told))
    found = []
    for _ in range(3):
        queue = queue_of(ledger, chance=0.15, thumbs_down=True)
        fill_review_queue(ledger, desk, queue)
        people, keys = (
            AnnotationQueue(ledger, queue.id),
            {one.id: one.key for one in iterate_reviewed_items(ledger, queue)},
        )
        for _ in range(int(0.8 * len(keys))):
            leased = people.next_item("rita")
            assert leased is not None
            is_wrong = int(keys[leased.id][1:]) in wrong
            values: dict[str, Any] = {"verdict": "wrong" if is_wrong else "right"}
            values |= {"types": ["incorrect"]} if is_wrong else {}
            people.submit("rita", AnswerSubmission(id=f"rita-{leased.id}", item=leased.id, values=values))
        found.append(compute_review_results(ledger, queue))
    truth = 1 - len(wrong) / 1200
    values = [one.accuracy.value for one in found if one.accuracy]
    assert abs(statistics.mean(values) - truth) < 0.06
    assert sum(one.accuracy.low <= truth <= one.accuracy.high for one in found if one.accuracy) >= 2
    one = found[0]
    assert one.answered < one.drawn
    assert one.accuracy is not None
    assert one.accuracy.size == pytest.approx(1200, rel=0.3)
    assert dict(one.failures)["incorrect"].value == pytest.approx(1 - one.accuracy.value)
    assert [each.value for each in one.releases] == ["a" * 12, "b" * 12], "the worst first"
    assert one.speaks_of_all
    assert one.as_json()["accuracy"]["low"] < truth


def test_it_says_which_alerts_it_feeds(desk: Workspace, ledger: Ledger) -> None:
    (fed,) = list_fed_alerts(desk, queue_of(ledger, chance=0.1))
    assert (fed.name, fed.signal) == ("reviewed", "reviewed")


@pytest.mark.parametrize("wrong", [{"where": "ratng < 0"}, {"share": 0}, {"share": 2}, {"name": ""}, {"extra": 1}])
def test_a_rule_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ReviewRule.model_validate({"name": "x", **wrong})
