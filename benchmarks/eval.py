"""What evaluation costs: intervals by resampling sums, twenty metrics on many rows, and figures of neighbouring files.

    python benchmarks/eval.py [--quick] [--only FIGURE …]

A figure is a function that takes `quick` and yields its JSON lines. Those of metrics stand here; a file `eval_*.py`
beside this one adds its own by a tuple `FIGURES`. Each figure runs in a process of its own, one after the other.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]
Figure = Callable[[bool], Iterator[dict[str, Any]]]
DEVICE = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
WORDS = [f"w{number}" for number in range(3000)]
TWENTY = [
    "accuracy",
    "balanced_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "micro_f1",
    "weighted_f1",
    "mcc",
    "ece",
    "brier",
    "exact_match",
    "token_f1",
    "bleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougeL",
    "wer",
    "cer",
    "perplexity",
]


def texts(rows: int, words: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Sentences, and the same with a quarter of the words replaced."""
    chance = random.Random(seed)
    references = [chance.choices(WORDS, k=chance.randint(words // 2, words * 3 // 2)) for _ in range(rows)]
    said = [[chance.choice(WORDS) if chance.random() < 0.25 else word for word in row] for row in references]
    return [" ".join(row) for row in said], [" ".join(row) for row in references]


def bleu_bootstrap(quick: bool) -> Iterator[dict[str, Any]]:
    """10,000 bootstrap resamples of BLEU over 10,000 rows, beside sacrebleu's own bootstrap."""
    from sacrebleu.metrics.bleu import BLEU

    from luthier.metrics.intervals import IntervalJob, compute_intervals
    from luthier.metrics.kinds.translation import Bleu
    from luthier.metrics.metric import EvalPredictions

    rows, resamples = 10_000, 10_000
    predictions, references = texts(rows, 20)
    metric = Bleu()
    block = metric.statistics(EvalPredictions.of(predictions, references))
    job = IntervalJob(blocks=(block,), value=lambda sums: metric.value(sums[0]), span=metric.usual)
    ours, peers = [], []
    for turn in range(1 if quick else 5):
        started = time.process_time()
        found = compute_intervals([job], seed=turn, resamples=resamples)[0]
        ours.append(time.process_time() - started)
        peer = BLEU()
        started = time.process_time()
        plain = peer.corpus_score(predictions, [references], n_bootstrap=2)
        once = time.process_time() - started
        started = time.process_time()
        theirs = peer.corpus_score(predictions, [references], n_bootstrap=resamples)
        peers.append(time.process_time() - started - once)
        assert abs(found.value - plain.score) < 1e-9
        half = (found.high - found.low) / 2
        print(
            f"  round {turn + 1}: ours {ours[-1]:.2f} CPU-s, {found.value:.3f} ± {half:.3f}; "
            f"sacrebleu {peers[-1]:.1f} CPU-s, ± {theirs._ci:.3f}",
            flush=True,
        )
    yield {"figure": "bleu_bootstrap_s", "value": round(statistics.median(ours), 3), "goal": 2.0, "unit": "CPU-s",
           "peer": f"sacrebleu, {statistics.median(peers):.1f} CPU-s"}  # fmt: skip


def twenty_metrics(quick: bool) -> Iterator[dict[str, Any]]:
    """100,000 rows scored in twenty metrics with intervals, in one process: CPU seconds and peak memory."""
    from luthier.core.component import component_of_kind
    from luthier.metrics.metric import EvalPredictions, Metric, measure_all

    rows = 10_000 if quick else 100_000
    chance = random.Random(0)
    labels = [f"label {number}" for number in range(20)]
    references = chance.choices(labels, k=rows)
    predictions = [label if chance.random() < 0.8 else chance.choice(labels) for label in references]
    scores = [{label: (0.81 if label == one else 0.01) for label in labels} for one in predictions]
    as_labels = EvalPredictions.of(predictions, references, label_scores=scores)
    likely = {"logprobs": [-chance.random() * 20 for _ in range(rows)], "tokens": [12] * rows}
    as_texts = EvalPredictions.of(*texts(rows, 12), **likely)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    metrics = [component_of_kind(Metric, name)(kind=name) for name in TWENTY]
    started = time.process_time()
    for answers, mine in ((as_labels, metrics[:10]), (as_texts, metrics[10:])):
        for metric, score in zip(mine, measure_all(mine, answers), strict=True):
            print(f"  {metric.kind:<18} {score.value:9.4f} ({score.low:.4f} to {score.high:.4f})", flush=True)
    spent = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {rows:,} rows, {len(TWENTY)} metrics: {spent:.1f} CPU-s; peak {peak:.0f} MB, rows alone {before:.0f} MB")
    yield {"figure": "twenty_metrics_s", "value": round(spent, 1), "goal": 60.0, "unit": "CPU-s", "rows": rows}
    yield {"figure": "twenty_metrics_mb", "value": round(peak), "goal": 600, "unit": "MB, the whole process",
           "rows": rows}  # fmt: skip


FIGURES: tuple[Figure, ...] = (bleu_bootstrap, twenty_metrics)


def every_figure() -> dict[str, Figure]:
    """The figures of this file and of its neighbours `eval_*.py`, by name."""
    neighbours = [importlib.import_module(path.stem) for path in sorted(HERE.glob("eval_*.py"))]
    return {figure.__name__: figure for part in (FIGURES, *(one.FIGURES for one in neighbours)) for figure in part}


def main() -> None:
    """Measure each figure in a process of its own and print one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and rows")
    parser.add_argument("--only", nargs="*", default=[], help="figures by name; all without it")
    parser.add_argument("--here", help="one figure in this process")
    told = parser.parse_args()
    figures = every_figure()
    if unknown := sorted({*told.only, *filter(None, [told.here])} - set(figures)):
        parser.error(f"there is no figure {unknown[0]!r}; known: {', '.join(figures)}")
    if told.here:
        for line in figures[told.here](told.quick):
            print(json.dumps({"device": DEVICE, **line}), flush=True)
        return
    for name in told.only or figures:
        print(name, flush=True)
        command = [sys.executable, __file__, "--here", name, *(["--quick"] if told.quick else [])]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
