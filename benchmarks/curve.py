"""How well learning curves are foretold, on real data with the plain classifier.

    python benchmarks/curve.py [--draws FOLDER] [--seeds N ...] [--cuts N ...]

Of each set, a quarter of the rows measures. Of a half and a quarter of the other rows (`--cuts`), curves are drawn over
1/16 to 1/2, three nested draws of each size; the value with all of them is foretold and held
against what was then measured. Predictions are kept in FOLDER, so that laws can be compared without training anew.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from luthier.auto.curve.measure import CurveAnswers, MeasuredCurve  # noqa: E402
from luthier.auto.curve.plain import LabelledTexts, classify, classify_by_draws, draw_nested  # noqa: E402
from luthier.metrics.kinds.labels import Accuracy, MacroF1  # noqa: E402
from luthier.metrics.learning_curve import fit_law  # noqa: E402
from luthier.metrics.metric import EvalPredictions, Metric  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
SHARES = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
MOST_ROWS = 6000
Row = tuple[str, str]


def _table(path: str, text: str, label: str) -> list[Row]:
    with (DATA / path).open(newline="", encoding="utf-8") as file:
        return [(row[text], row[label]) for row in csv.DictReader(file) if row[text] and row[label]]


def _snips() -> Iterator[Row]:
    for path in sorted((DATA / "snips").glob("*.json")):
        for intent, rows in json.loads(path.read_text(encoding="utf-8", errors="replace")).items():
            yield from (("".join(part["text"] for part in row["data"]), intent) for row in rows)


def _tweets(name: str) -> Iterator[Row]:
    folder = DATA / "tweeteval_sentiment_irony" / name
    for texts in sorted(folder.glob("*_text.txt")):
        labels = texts.with_name(texts.name.replace("_text", "_labels"))
        yield from zip(
            texts.read_text(encoding="utf-8").split("\n"), labels.read_text(encoding="utf-8").split(), strict=False
        )


def _answers() -> Iterator[Row]:
    for line in (DATA / "hh_rlhf" / "harmless_base.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield from ((row[kind].rsplit("Assistant:", 1)[1], kind) for kind in ("chosen", "rejected"))


def read_sets() -> dict[str, list[Row]]:
    """Texts with their classes, by the set's name."""
    banking = [row for part in ("train", "test") for row in _table(f"banking77/{part}.csv", "text", "category")]
    first = sorted({label for _, label in banking})[:20]
    bitext = "bitext_intents/Bitext_Sample_Customer_Service_{}_Dataset.csv"
    parts = ("Training", "Validation", "Testing")
    crows = "crows_pairs/crows_pairs_anonymized.csv"
    support = "bitext_customer_support/Bitext_Sample_Customer_Support_Training_Dataset.csv"
    return {
        "banking77": banking,
        "banking20": [row for row in banking if row[1] in first],
        "bitext_intent": [row for part in parts for row in _table(bitext.format(part), "utterance", "intent")],
        "bitext_category": [row for part in parts for row in _table(bitext.format(part), "utterance", "category")],
        "bitext_response": _table(support, "response", "intent"),
        "snips": list(_snips()),
        "sentiment": list(_tweets("sentiment")),
        "irony": list(_tweets("irony")),
        "crows_type": _table(crows, "sent_more", "bias_type"),
        "crows_anti": _table(crows, "sent_more", "stereo_antistereo"),
        "hh_preferred": list(_answers()),
    }


def _texts(rows: list[Row]) -> LabelledTexts:
    return LabelledTexts([text for text, _ in rows], [label for _, label in rows])


def draw(path: Path, rows: list[Row], seed: int, cut: int) -> None:
    """Keep the predictions of one curve, and those with twice the rows."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    rows = rows[:MOST_ROWS]
    held_out, pool = rows[: len(rows) // 4], rows[len(rows) // 4 :]
    pool = pool[: len(pool) // cut]
    half = pool[: len(pool) // 2]
    draws = draw_nested(len(half), SHARES, 3, seed)
    names = sorted({label for _, label in rows})
    code = {label: at for at, label in enumerate(names)}
    drawn = classify_by_draws(_texts(half), _texts(held_out), draws)
    whole = classify(_texts(pool), _texts(held_out), names)
    np.savez_compressed(
        path,
        pred=np.array([[[code[one] for one in two.predictions] for two in size] for size in drawn], np.int16),
        truth=np.array([code[one] for one in whole.predictions], np.int16),
        ref=np.array([code[label] for _, label in held_out], np.int16),
        counts=np.array(draws.counts),
        full=len(pool),
    )


class Case(NamedTuple):
    """One curve and what was measured with twice the rows."""

    name: str
    curve: MeasuredCurve
    truth: float
    rows: float


def cases(folder: Path) -> Iterator[Case]:
    """All curves that are kept, by accuracy and by macro F1."""
    for path in sorted(folder.glob("*.npz")):
        kept = np.load(path)
        references = [str(one) for one in kept["ref"]]

        def answers(codes: Any, references: list[str] = references) -> EvalPredictions:
            return EvalPredictions.of([str(one) for one in codes], references)

        by_size = [[answers(one) for one in size] for size in kept["pred"]]
        whole = answers(kept["truth"])
        metrics: tuple[Metric, ...] = (Accuracy(), MacroF1())
        for metric in metrics:
            curve = CurveAnswers.of(metric, kept["counts"].tolist(), by_size).curve(seed=1)
            block = metric.statistics(whole)
            value = float(metric.value(np.asarray(np.ones(len(whole)) @ block)[None])[0])
            yield Case(f"{path.stem} {metric.kind}", curve, value, float(kept["full"]))


def report(found: list[Case]) -> None:
    """Print how far forecasts lie off, by law and averaged, and how often intervals hold."""
    print(f"{len(found)} curves; points by which the value with twice the rows was missed")
    print(f"{'':28}{'median':>8}{'mean':>8}{'90 %':>8}{'within 1':>10}{'bias':>8}")
    _line("the last size", [float(one.curve.values[-1].mean()) - one.truth for one in found])
    for at, law in enumerate(found[0].curve.forecast.fit.laws):
        missed = []
        for one in found:
            curve = 1 - one.curve.values.mean(axis=1)
            by_law = fit_law(law.law, np.array(one.curve.counts, float), curve[None]).predict(np.array([one.rows]))
            missed.append(1 - float(by_law[0, 0]) - one.truth)
        _line(f"{at + 1}. {law.law.name}", missed)
    _line("average", [one.curve.expected(one.rows).value - one.truth for one in found])
    held = [one.curve.expected(one.rows) for one in found]
    inside = [one.low - 1e-9 <= case.truth <= one.high + 1e-9 for one, case in zip(held, found, strict=True)]
    gains = [one.curve.gain(one.rows) for one in found]
    true_gains = [one.truth - float(one.curve.values[-1].mean()) for one in found]
    inside_gain = [
        one.low - 1e-9 <= max(true, 0) <= one.high + 1e-9 for one, true in zip(gains, true_gains, strict=True)
    ]
    print(
        f"intervals of the value hold {100 * np.mean(inside):.0f} %, mean width "
        f"{100 * np.mean([one.high - one.low for one in held]):.1f} points"
    )
    print(f"intervals of the gain hold {100 * np.mean(inside_gain):.0f} %, mean width "
          f"{100 * np.mean([one.high - one.low for one in gains]):.1f} points")  # fmt: skip
    by_set: dict[str, list[float]] = {}
    for one in found:
        by_set.setdefault(one.name.partition(".")[0], []).append(abs(one.curve.expected(one.rows).value - one.truth))
    print("median by set: " + ", ".join(f"{name} {100 * np.median(off):.2f}" for name, off in by_set.items()))


def _line(name: str, missed: list[float]) -> None:
    off = 100 * np.abs(missed)
    print(
        f"{name:28}{np.median(off):8.2f}{off.mean():8.2f}{np.quantile(off, 0.9):8.2f}"
        f"{100 * np.mean(off <= 1):9.0f}%{100 * np.mean(missed):+8.2f}"
    )


def main() -> None:
    """Draw what is not kept yet, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=Path, default=Path("/tmp/luthier-curve-draws"))
    parser.add_argument("--seeds", type=int, default=[0], nargs="+", help="of the draws")
    parser.add_argument("--cuts", type=int, default=[4, 2], nargs="+", help="1 / each: shares of the training rows")
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.error(f"the real data sets are not beside the repository ({DATA.parent.name}/{DATA.name})")
    options.draws.mkdir(parents=True, exist_ok=True)
    started, sets = time.perf_counter(), read_sets()
    for seed in options.seeds:
        for cut in options.cuts:
            for name, rows in sets.items():
                path = options.draws / f"{name}.{seed}.{cut}.npz"
                if not path.exists():
                    draw(path, rows, seed, cut)
                    print(f"{time.perf_counter() - started:6.0f} s {path.stem}", file=sys.stderr, flush=True)
    print(f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}")
    report(list(cases(options.draws)))


if __name__ == "__main__":
    main()
