"""Every signal keeps a signal's promises: a number with its interval and count, from a bounded sample."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from documented import undescribed
from endpoint import serving
from luthier.chat.messages import MEDIA_MARK
from luthier.chat.messages import Message as Turn
from luthier.core.component import components_by_kind
from luthier.core.expressions import Window
from luthier.monitor.plan import MonitorPlan
from luthier.monitor.signal import Signal, SignalRow, SignalValue, TrainingSample, WindowSpan
from luthier.monitor.windows import PARTS, ROWS_OF_PART
from luthier.traces.record import Feedback, Trace
from tiny_models import tickets
from watching import BEGIN, desk_traffic, evaluator, label, measured, plan_of, shown_media, trace

ROOT = Path(__file__).parent.parent
SIGNALS = components_by_kind(Signal)
KINDS = sorted(SIGNALS)
NEEDED: dict[str, dict[str, Any]] = {
    "cost": {"prompt": 1.0, "answer": 2.0},
    "metric": {"metric": "accuracy"},
    "drift": {"rows": 150, "first_turns": False},
    "judge": {"share": 1.0},
}
"""Settings without which a signal cannot be, or would be slow here."""
BAD: dict[str, tuple[dict[str, Any], ...]] = {
    "latency": ({"latency_s": 30.0},),
    "error_rate": ({"status": 503, "answer": None, "finish_reason": "error"},),
    "refusal_rate": ({"answer": "I'm sorry, but I can't help with that."},),
    "tokens": ({"completion_tokens": 900},),
    "cost": ({"completion_tokens": 90_000},),
    "metric": ({"answer": "nonsense"},),
    "rating": ({},),
    "reviewed": ({},),
    "length": ({"answer": "word " * 300},),
    "language": ({"answer": "Ihr Paket liegt beim Nachbarn und kann dort abgeholt werden."},),
    "toxicity": ({"answer": "you stupid fucking idiot"},),
    "pii": ({"answer": "write to anna.schmidt@example.com"},),
    "schema_validity": ({"answer": "{not json"},),
    "drift": ({"question": "Quel est le meilleur vin rouge de Bordeaux pour un anniversaire de mariage ?"},),
    "unknown_words": ({"question": "zyxw vutsr qponm lkjih"},),
    "judge": ({"answer": "bad bad bad"},),
    "confidence": ({"scores": {"account": 0.33, "billing": 0.33, "delivery": 0.34}},),
    "calibration": ({"scores": {"account": 0.97, "billing": 0.01, "delivery": 0.02}, "answer": "account"},),
}
"""What makes the first number move, for each signal that holds of single requests."""
FALLS = {"metric", "rating", "reviewed", "schema_validity", "judge"}
"""Signals whose first number falls when it is bad."""
SURE = {"account": 0.05, "billing": 0.05, "delivery": 0.9}
_SHOWN = Turn(role="user", content=f"{MEDIA_MARK} What is it?", media=(shown_media(1, seed=9)[0],))
USUAL: dict[str, dict[str, Any]] = {
    "media_drift": {"messages": (_SHOWN,)},
    "language": {"answer": "Your parcel is at your neighbour's and can be collected there."},
    "schema_validity": {"answer": '{"a": 1}'},
    "confidence": {"scores": SURE},
    "calibration": {"scores": SURE},
}
"""What a good request has, for signals that do not find it in every request."""
TEXTS = [row["message"] for row in tickets(200, seed=4)]
MEDIA = shown_media(150)
HARD = (
    {"question": "", "answer": ""},
    {"answer": None},
    {"answer": None, "status": 500, "finish_reason": "error", "error": "broken"},
    {"answer": "\u200b\ud7ff", "question": "ß" * 4000},
    {"status": 429, "answer": None},
    {"first_token_s": None, "latency_s": 0.0, "prompt_tokens": 0, "completion_tokens": 0},
    {"finish_reason": "cancelled", "answer": "half an"},
    {"question": "a\nb\tc\x00", "answer": "[1, 2"},
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def judge() -> Any:
    """A judge that likes what is not bad."""

    def score(body: dict[str, Any]) -> str:
        bad = "bad bad" in json.dumps(body["messages"])
        return json.dumps({"reason": "so it is", "score": 1 if bad else 5})

    with serving(score) as server:
        yield server.url


@pytest.fixture
def plan(kind: str, judge: str, tmp_path: Path) -> MonitorPlan:
    settings = {"kind": kind, **NEEDED.get(kind, {})}
    if kind == "judge":
        settings["judge"] = {"kind": "judge", "url": judge, "model": "judge"}
    return plan_of(tmp_path, [settings], texts=TEXTS, media=MEDIA)


def signal_of(plan: MonitorPlan) -> Signal:
    return plan.signals[0]


def events(plan: MonitorPlan, traces: Sequence[Trace]) -> list[Trace | Feedback]:
    """Requests, each with what is said of it later."""
    return [
        one for trace in traces for one in (trace, label(trace, "delivery", after_s=0.5, rating=1.0, probability=0.5))
    ]


def fed(plan: MonitorPlan, folder: Path, log: Sequence[Trace | Feedback]) -> dict[tuple[str, Window], SignalValue]:
    watching = evaluator(plan, folder)
    for event in log:
        watching.add(event)
    at = max((event.timestamp.timestamp() for event in log), default=BEGIN.timestamp()) + 1
    return {(number, spec): reading for number, spec, reading in watching.readings(at)}


def test_it_is_documented_and_its_settings_come_back(plan: MonitorPlan) -> None:
    signal = signal_of(plan)
    member = type(signal)
    assert member.summary()
    assert undescribed(member) == []
    assert Signal.parse(json.loads(json.dumps(signal.settings()))) == signal


def test_it_stands_in_the_reference(kind: str) -> None:
    page = (ROOT / "docs" / "reference" / "signal.md").read_text(encoding="utf-8")
    section = page.partition(f"## `{kind}`\n")[2].partition("\n## ")[0]
    assert SIGNALS[kind].summary() in section


def test_its_numbers_begin_with_what_it_is_called_and_a_name_renames_them(plan: MonitorPlan) -> None:
    signal = signal_of(plan)
    for number in signal.numbers():
        assert number == signal.called or number.startswith(f"{signal.called}.")
    other = Signal.parse({**signal.settings(), "name": "other"})
    assert [number.replace(signal.called, "other", 1) for number in signal.numbers()] == list(other.numbers())


def test_each_number_comes_with_an_interval_and_what_it_rests_on(plan: MonitorPlan, tmp_path: Path) -> None:
    usual = USUAL.get(signal_of(plan).kind, {})
    found = fed(plan, tmp_path, events(plan, [trace(number, TEXTS[number], **usual) for number in range(80)]))
    expected = set(signal_of(plan).numbers())
    assert {number for number, _ in found} == expected
    for reading in found.values():
        assert reading.low <= reading.value <= reading.high
        assert all(math.isfinite(value) for value in reading)
        assert 0 < reading.events <= 80


def test_no_traffic_is_no_number(plan: MonitorPlan, tmp_path: Path) -> None:
    assert fed(plan, tmp_path, []) == {}


def test_hard_traffic_is_taken(plan: MonitorPlan, tmp_path: Path) -> None:
    traces = [trace(number, **more) for number, more in enumerate(HARD * 6)]
    said = [Feedback(trace=one.id, timestamp=one.timestamp, rating=-1, label="x", correction="") for one in traces]
    for reading in fed(plan, tmp_path, [*traces, *said]).values():
        assert all(math.isfinite(value) for value in reading)


def test_what_it_looks_for_moves_its_first_number(kind: str, plan: MonitorPlan, tmp_path: Path) -> None:
    if kind not in BAD:
        pytest.skip("no single request is bad in its eyes")
    found = []
    for bad in (False, True):
        made = dict(BAD[kind][0]) if bad else {}
        question = made.pop("question", None)
        traces = [trace(number, question or TEXTS[number], **{**USUAL.get(kind, {}), **made}) for number in range(60)]
        rating = -1.0 if bad else 1.0
        log = [
            one
            for each in traces
            for one in (each, label(each, "delivery", after_s=0.5, rating=rating, probability=0.5))
        ]
        first = signal_of(plan).numbers()[0]
        found.append(next(reading for (number, _), reading in fed(plan, tmp_path, log).items() if number == first))
    good, bad_one = found
    assert (bad_one.value < good.value) if kind in FALLS else (bad_one.value > good.value)


def test_the_worst_requests_are_found(kind: str, plan: MonitorPlan, tmp_path: Path) -> None:
    if kind not in BAD:
        pytest.skip("no single request is bad in its eyes")
    made = dict(BAD[kind][0])
    question = made.pop("question", None)
    usual = USUAL.get(kind, {})
    traces = [trace(number, TEXTS[number], **usual) for number in range(40)]
    traces[17] = trace(17, question or TEXTS[17], **{**usual, **made})
    watching = evaluator(plan, tmp_path)
    for event in traces:
        watching.add(event)
        watching.add(label(event, "delivery", after_s=0.1, probability=0.5, rating=-1.0 if event.id == "r17" else 1.0))
    watched = watching._watched[signal_of(plan).called]
    at = traces[-1].timestamp.timestamp() + 1
    rows = next(iter(watched.windows.values())).rows(at)
    watched.eye.measure(rows, WindowSpan(60, len(rows)))
    each = watched.eye.each(rows)
    if kind == "error_rate":
        assert [row.trace for row, value in zip(rows, each or (), strict=True) if value > 0] == ["r17"]
        return
    assert each is not None
    worst = (min if kind in FALLS else max)(range(len(rows)), key=lambda place: each[place])
    assert rows[worst].trace == "r17"


def test_neither_the_order_of_other_traffic_nor_a_replay_changes_it(plan: MonitorPlan, tmp_path: Path) -> None:
    log = desk_traffic(60, every_s=1)
    first, second = fed(plan, tmp_path, log), fed(plan, tmp_path, log)
    assert first == second


def test_a_window_holds_a_bounded_sample(plan: MonitorPlan, tmp_path: Path) -> None:
    """Rows are kept up to a bound; what was measured of all is near what is measured of the sample."""
    watching = evaluator(plan, tmp_path)
    watched = watching._watched[signal_of(plan).called]
    for kept in watched.windows.values():
        for number in range(3000):
            kept.add(BEGIN.timestamp() + number / 1000, SignalRow(hash((number, "x")) & (2**64 - 1), 1.0, f"r{number}"))
        rows = kept.rows(BEGIN.timestamp() + 4)
        assert len(rows) <= PARTS * ROWS_OF_PART
        spec = next(spec for spec, one in watched.windows.items() if one is kept)
        assert len(rows) <= (spec.events or ROWS_OF_PART)
        assert kept.events(BEGIN.timestamp() + 4) == (spec.events or 3000)


def test_a_reference_is_written_alike_twice(plan: MonitorPlan, tmp_path: Path) -> None:
    signal = signal_of(plan)
    told, mixed = measured(200), random.Random(1)
    training = TrainingSample(prompts=TEXTS, answers=TEXTS, recipe_dir=tmp_path, seed=3, measured=told, media=MEDIA)
    shuffled = TrainingSample(
        prompts=mixed.sample(TEXTS, len(TEXTS)),
        answers=TEXTS,
        recipe_dir=tmp_path,
        seed=3,
        measured=mixed.sample(told, len(told)),
        media=mixed.sample(MEDIA, len(MEDIA)),
    )
    written = []
    for name, given in (("a", training), ("b", shuffled)):
        signal.learn(given, tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        written.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert bool(written[0]) == (signal.learns or signal.needs_report)


def test_a_conversation_is_read_by_its_last_turn(plan: MonitorPlan, tmp_path: Path) -> None:
    turns = (
        Turn(role="user", content="Hello"),
        Turn(role="assistant", content="Hi"),
        Turn(role="user", content=TEXTS[0]),
    )
    traces = [trace(number, messages=turns) for number in range(20)]
    for reading in fed(plan, tmp_path, events(plan, traces)).values():
        assert reading.events <= 20


@pytest.mark.parametrize("by", ["label", "correction"])
@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_class_is_meant_however_a_person_spells_it(metric: str, by: str, tmp_path: Path) -> None:
    scores = {"billing": 0.4, "Delivery": 0.6}
    said = [("Delivery", " delivery"), ("Delivery", "BILLING"), ("billing", "Billing "), ("Delivery", "Delivery")]
    log: list[Trace | Feedback] = []
    for number, (answer, right) in enumerate(said):
        one = trace(number, answer=answer, scores=scores)
        log += [one, Feedback.model_validate({"trace": one.id, "timestamp": one.timestamp, by: right})]
    signal = plan_of(tmp_path, [{"kind": "metric", "metric": metric}]).signals[0]
    rows = [signal.row(one, told) for one, told in zip(log[::2], log[1::2], strict=True)]
    assert [row[1] for row in rows] == ["Delivery", "billing", "billing", "Delivery"]
    plain = trace(9, answer="delivery")
    assert (
        signal.row(plain, Feedback(trace=plain.id, timestamp=plain.timestamp, correction=" Delivery"))[1] == " Delivery"
    )


def test_verdicts_count_by_the_chance_with_which_their_requests_were_drawn(tmp_path: Path) -> None:
    """All that was complained of is reviewed, and a tenth of the rest: most verdicts are bad, and few answers."""
    plan = plan_of(tmp_path, [{"kind": "reviewed"}, {"kind": "reviewed", "failure": "tone", "name": "tone"}])
    log: list[Trace | Feedback] = []
    for number in range(80):
        one, complained = trace(number), number < 60
        word = Feedback(
            trace=one.id, timestamp=one.timestamp, by="rita", role="reviewer", rating=-1 if complained else 1,
            probability=1 if complained else 0.1, types=("tone",) if number < 30 else (),
        )  # fmt: skip
        log += [one, word]
    unknown = trace(90)
    log += [unknown, label(unknown, "x", rating=-1.0)]
    found = {number: reading for (number, _), reading in fed(plan, tmp_path, log).items()}
    assert found["reviewed"].value == pytest.approx(200 / 260)
    assert found["reviewed"].low < 200 / 260 < found["reviewed"].high
    assert found["tone"].value == pytest.approx(30 / 260)
    again = log[1].model_copy(update={"by": "olga", "role": "owner", "rating": 1.0, "types": ()})
    assert isinstance(again, Feedback)
    changed = fed(plan, tmp_path, [*log, again.model_copy(update={"timestamp": unknown.timestamp})])
    assert {number: reading.value for (number, _), reading in changed.items()}["reviewed"] == pytest.approx(201 / 260)
