"""Traffic to test monitors with: tickets that are answered, now and then wrongly, and labels that come later."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from luthier.chat.messages import Media
from luthier.chat.messages import Message as Turn
from luthier.core.context import RunContext
from luthier.monitor.alerts import Alert
from luthier.monitor.evaluator import AlertEvaluator
from luthier.monitor.plan import MonitorPlan, parse_alert_rules
from luthier.monitor.signal import ReportRow, Signal, TrainingSample
from luthier.traces.record import Feedback, Trace
from tiny_models import tickets

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
LABELS = ("account", "billing", "delivery")


def trace(number: int, question: str = "Where is my parcel?", answer: str | None = "delivery", **more: Any) -> Trace:
    """A request: `number` is its id and, unless `timestamp` is given, the second at which it came."""
    told: dict[str, Any] = {
        "timestamp": BEGIN + timedelta(seconds=number),
        "model": "support@prod",
        "release": "a1",
        "messages": (Turn(role="user", content=question),),
        "answer": None if answer is None else Turn(role="assistant", content=answer),
        "prompt_tokens": 20,
        "completion_tokens": 2,
        "latency_s": 0.5,
        "first_token_s": 0.1,
    }
    return Trace(id=f"r{number}", **{**told, **more})


def label(of: Trace, right: str, *, after_s: float = 60, **more: Any) -> Feedback:
    """What was right, said a while later."""
    return Feedback(trace=of.id, timestamp=of.timestamp + timedelta(seconds=after_s), label=right, **more)


def desk_traffic(
    count: int, *, wrong: Sequence[range] = (), every_s: float = 30, seed: int = 0
) -> list[Trace | Feedback]:
    """Tickets with their classes as labels; in the ranges that are named, every second answer is wrong."""
    chance = random.Random(seed)
    rows = tickets(100, seed=seed)
    found: list[Trace | Feedback] = []
    for number in range(count):
        row = rows[chance.randrange(len(rows))]
        bad = any(number in part for part in wrong) and chance.random() < 0.5
        said = chance.choice([one for one in LABELS if one != row["category"]]) if bad else row["category"]
        sure = {one: 0.8 if one == said else 0.1 for one in LABELS}
        at = BEGIN + timedelta(seconds=number * every_s)
        meta = {"product": chance.choice(["app", "shop"])}
        one = trace(
            number, row["message"], said, timestamp=at, scores=sure, meta=meta, latency_s=chance.lognormvariate(-1, 0.3)
        )
        found += [one, label(one, row["category"], after_s=every_s * 0.5)]
    return sorted(found, key=lambda event: event.timestamp)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def write_log(path: Path, events: Iterable[Trace | Feedback]) -> Path:
    """A log as JSON lines."""
    path.write_text("".join(event.model_dump_json() + "\n" for event in events), encoding="utf-8")
    return path


def measured(count: int, seed: int = 0, sure: float = 3.0) -> list[ReportRow]:
    """Rows of a report whose probabilities mean what they say; the larger `sure`, the more sure of itself the model."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        scores = [math.exp(chance.gauss(0, sure)) for _ in LABELS]
        shares = {label: score / sum(scores) for label, score in zip(LABELS, scores, strict=True)}
        right = chance.choices(LABELS, list(shares.values()))[0]
        found.append(ReportRow(shares, max(LABELS, key=lambda label: shares[label]), right))
    return found


def shown_media(count: int, seed: int = 0, kind: str = "image", **more: Any) -> list[Media]:
    """Pictures or sounds of many sizes, as traces name them, half of them near copies of a few; `more` replaces what is
    drawn."""
    chance = random.Random(f"{seed} {kind}")
    models = [random.Random(f"{kind} {number}").getrandbits(128) for number in range(20)]
    found = []
    for _ in range(count):
        look = chance.choice(models)
        for _ in range(chance.randrange(30)):
            look ^= 1 << chance.randrange(128)
        told: dict[str, Any] = {
            "kind": kind, "digest": chance.randbytes(32).hex(), "size": int(chance.lognormvariate(11, 0.7)),
            "fingerprint": f"{look:032x}", "format": "png" if kind == "image" else "wav",
        }  # fmt: skip
        if kind == "image":
            width = int(chance.lognormvariate(6, 0.3))
            told |= {
                "width": width,
                "height": int(width * chance.choice([0.75, 1, 1.33])),
                "level": chance.gauss(0.5, 0.1),
            }
        else:
            told |= {"seconds": chance.lognormvariate(1, 0.5), "rate": 16000, "level": chance.gauss(-20, 4)}
        found.append(Media.model_validate({**told, **more}))
    return found


def plan_of(
    folder: Path,
    signals: Sequence[Any],
    alerts: Sequence[Any] = (),
    *,
    report: dict[str, float] | None = None,
    texts: Sequence[str] = (),
    media: Sequence[Media] = (),
    every_s: float = 60,
) -> MonitorPlan:
    """What a step `monitor` would keep, without a recipe."""
    made = [Signal.parse(one) for one in signals]
    more: dict[str, Any] = {"media": media, "measured": measured(200)}
    training = TrainingSample(prompts=texts, answers=texts, recipe_dir=folder, seed=0, **more)
    for signal in made:
        if signal.learns or signal.needs_report:
            signal.learn(training, folder / "references" / signal.called)
    rules = parse_alert_rules([Alert.model_validate(one) for one in alerts], made, report or {})
    references = folder / "references"
    return MonitorPlan(
        name="desk", every_s=every_s, signals=made, rules=rules, references=references, report=report or {}, seed=0
    )


def evaluator(plan: MonitorPlan, folder: Path) -> AlertEvaluator:
    """An evaluator that works in a folder."""
    return AlertEvaluator(plan, RunContext(recipe_dir=folder, kept=folder / "kept"))


def run(watching: AlertEvaluator, events: Iterable[Trace | Feedback], *, further_s: float = 60) -> Iterator[Any]:
    """All messages over a log, and over some time after it."""
    at = 0.0
    for event in events:
        at = event.timestamp.timestamp()
        for due in watching.looks(at):
            yield from watching.look(due)
        watching.add(event)
    for due in watching.looks(at + further_s):
        yield from watching.look(due)
