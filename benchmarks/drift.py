"""How often drift cries wolf, how soon it sees a real change, and what watching costs a request.

    python benchmarks/drift.py [--quick] [--only NAME]

The texts are BANKING77's (../shared/data). A simulated week is a random order of real requests: the reference first,
the week's requests after it, all from the same pool; whatever alarm there is, is false. A change is real, too: a desk
that was trained without the intents about cards gets them, all at once or as a part of its traffic.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.metrics.martingale import ConformalMartingale
from luthier.models.embedders.lsa import LsaEmbedder
from luthier.monitor.baseline import DriftScorer, compute_confidence, extract_words

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "banking77"
sys.path.insert(0, str(ROOT / "tests"))
FILES = ("train.csv", "test.csv")
LEVELS = {"1 in 10": 1.0, "1 in 100": 2.0, "1 in 1000": 3.0}
WEEK = 500
"""Requests of a simulated week, which is one round of the test."""
REFERENCE = 300
GOAL_REQUESTS = 300
Figure = dict[str, Any]


def main() -> None:
    """Run every figure and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 weeks instead of 10,000, and fewer changes")
    parser.add_argument("--only", choices=sorted(FIGURES), help="one group of figures")
    asked = parser.parse_args()
    if not DATA.is_dir():
        print(f"{DATA} is not here: nothing is measured")
        return
    device = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    for name, figures in FIGURES.items():
        if asked.only in (None, name):
            for figure in figures(quick=asked.quick):
                print(json.dumps({**figure, "device": device}), flush=True)


def labelled(name: str) -> tuple[list[str], list[str]]:
    """The texts and labels of one of the files."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["category"] for row in rows]


def requests() -> tuple[list[str], list[str]]:
    """Requests about cards, and all others."""
    texts, labels = map(list, zip(*(row for name in FILES for row in zip(*labelled(name), strict=True)), strict=True))
    about = ["card" in label or "pin" in label for label in labels]
    return [t for t, a in zip(texts, about, strict=True) if a], [t for t, a in zip(texts, about, strict=True) if not a]


def numbers_of(known: list[str]) -> DriftScorer:
    """What is looked at of a text, learnt from known ones, as the signal `drift` does."""
    space = LsaEmbedder().space(known, recipe_dir=Path(), seed=0)
    return DriftScorer(space, space.points(known), {word for text in known for word in extract_words(text)})


def placed(numbers: DriftScorer, texts: list[str]) -> NDArray[np.float64]:
    """The numbers of texts."""
    return numbers.of(texts, numbers.points(texts))


def false_alarms(*, quick: bool) -> Iterator[Figure]:
    """The part of weeks without a change in which the evidence passes a level at any time."""
    _, texts = requests()
    random.Random(0).shuffle(texts)
    yield from _weeks(placed(numbers_of(texts[:1000]), texts[1000:]), "false_alarm_rate", quick=quick)


def sureness(*, quick: bool) -> Iterator[Figure]:
    """The same for what a classifier says of its answers (`confidence`) and for what came true (`calibration`)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    (texts, labels), (asked, right) = (labelled(name) for name in ("train.csv", "test.csv"))
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=300))
    shares = model.fit(texts, labels).predict_proba(asked)
    said = model.classes_[shares.argmax(axis=1)]
    yield from _weeks(
        np.array([compute_confidence(row) for row in shares.tolist()]), "confidence_false_alarm_rate", quick=quick
    )
    missed = (said == np.array(right)) - shares.max(axis=1)
    yield from _weeks(missed[:, None], "calibration_false_alarm_rate", quick=quick)


def _weeks(pool: NDArray[np.float64], called: str, *, quick: bool) -> Iterator[Figure]:
    weeks = 500 if quick else 10_000
    chance = np.random.default_rng(0)
    highest = []
    for week in range(weeks):
        drawn = pool[chance.permutation(len(pool))[: REFERENCE + WEEK]]
        made, most = ConformalMartingale(drawn[:REFERENCE], points=WEEK), 0.0
        lots = chance.random((WEEK, pool.shape[1]))
        for row, lot in zip(drawn[REFERENCE:].tolist(), lots.tolist(), strict=True):
            made.add(row, lot)
            most = max(most, made.digits)
        highest.append(most)
        if (week + 1) % max(1, weeks // 10) == 0:
            print(f"  {week + 1} weeks, {sum(one > 2 for one in highest)} with evidence above 2", flush=True)
    for name, level in LEVELS.items():
        found = sum(one > level for one in highest)
        yield {
            "figure": f"{called}_stated_{name.replace(' ', '_')}",
            "value": found / weeks,
            "goal": 10**-level,
            "unit": "of weeks",
            "weeks": weeks,
            "alarms": found,
        }


def changes(*, quick: bool) -> Iterator[Figure]:
    """Requests until the evidence passes 2 (a hundred to one), after a thousand without a change."""
    trials = 4 if quick else 20
    for part in (1.0, 0.5, 0.25):
        found = [_found_after(trial, part) for trial in range(trials)]
        known = sorted(one for one in found if one is not None)
        missed = len(found) - len(known)
        print(f"  {part:.0%} of the traffic about cards: {known}, not within 2,000: {missed}", flush=True)
        worst = known[-1] if not missed else 2000
        yield {
            "figure": f"requests_until_found_{part:.0%}_new".replace("%", "_percent"),
            "value": worst,
            "median": statistics.median(known) if known else None,
            **({"goal": GOAL_REQUESTS} if part == 1.0 else {}),
            "unit": "requests (worst trial)",
            "trials": trials,
            "missed": missed,
        }


def _found_after(trial: int, part: float) -> int | None:
    new, old = requests()
    chance = random.Random(trial)
    chance.shuffle(new)
    chance.shuffle(old)
    numbers = numbers_of(old[:1000])
    made = ConformalMartingale(placed(numbers, old[1000:3000]), points=10_000)
    before, rest = old[3000:4000], old[4000:6000]
    after = [new[at] if chance.random() < part else rest[at] for at in range(2000)]
    stream = placed(numbers, [*before, *after])
    for at, row in enumerate(stream.tolist()):
        made.add(row, [chance.random() for _ in row])
        if made.digits > 2 and at >= 1000:
            return at - 999
    return None


def cost(*, quick: bool) -> Iterator[Figure]:
    """Processor time a request, for the plain signals and for drift; looks every minute at one request a second."""
    from watching import evaluator, plan_of, trace

    _, old = requests()
    count = 1500 if quick else 6000
    plain = ["latency", "error_rate", "refusal_rate", "throughput", "tokens", "length"]
    every = {"plain signals": plain, "drift": ["drift"], "language, personal data": ["language", "pii"]}
    answer = "Your card was sent on Monday and should arrive within five working days."
    log = [trace(number, old[number % len(old)], answer) for number in range(count)]
    for name, signals in every.items():
        with tempfile.TemporaryDirectory() as folder:
            plan = plan_of(
                Path(folder), signals, ["throughput < 0"] if "throughput" in signals else [], texts=old[:3000]
            )
            watching = evaluator(plan, Path(folder))
            begun = time.process_time()
            for event in log:
                for at in watching.looks(event.timestamp.timestamp()):
                    list(watching.readings(at)) if name != "drift" else watching.reading(
                        "drift.evidence", plan.signals[0].usual, at
                    )
                watching.add(event)
            spent = (time.process_time() - begun) / count
        yield {
            "figure": f"cpu_a_request_{name}".replace(", ", "_").replace(" ", "_"),
            "value": round(1e6 * spent),
            "unit": "us",
            "requests": count,
        }


FIGURES = {"false_alarms": false_alarms, "sureness": sureness, "changes": changes, "cost": cost}

if __name__ == "__main__":
    main()
