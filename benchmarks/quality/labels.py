"""Wrong labels planted in BANKING77: how many of the first k rows that are named bear one, beside cleanlab.

In one row of twenty the label is replaced: half of them by a class drawn at random, half by the class that a plain
classifier takes for the row's second (the errors that people make). Both tools read the same out-of-fold probabilities;
cleanlab's list is ranked by its own self-confidence, ours by how the label stands against the likelier class. Rows that
were wrong before anything was planted count against both, so that precision is a lower bound. The sets that the two
name are compared as well.
"""

from __future__ import annotations

import csv
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from luthier.chat.messages import Message
from luthier.data.checks.label_errors import LabelErrors
from luthier.data.validate.confident_learning import find_label_errors
from luthier.data.validate.context import CheckData, CheckRow
from luthier.models.text_classifier import predict_texts_out_of_fold

DATA = Path(__file__).parents[3] / "shared" / "data"
SHARE = 0.05
SEED = 11


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """Plant, look with both, and say how many of the first rows were planted."""
    if not DATA.is_dir():
        print(f"left out: {DATA} is not here")
        return
    rows = _rows()[:: 5 if quick else 1]
    planted = _planted(rows)
    wrong = {row.id for row, before in zip(planted, rows, strict=True) if row.label != before.label}
    data = CheckData(planted, task="label", seed=SEED)
    print(f"{len(rows)} rows, {len(wrong)} planted errors, {len(data.labels)} classes", flush=True)
    started = time.perf_counter()
    accuracy = data.held.accuracy
    print(f"probabilities: {time.perf_counter() - started:.1f} s, accuracy {accuracy:.3f}", flush=True)
    named = {"luthier": _ours(data), "cleanlab": _theirs(data)}
    ours, theirs = find_label_errors(data.codes, data.held.probabilities), _mask(data, named["cleanlab"])
    overlap = float((ours & theirs).sum() / (ours | theirs).sum())
    print(f"named by both, of those that either names: {overlap:.4f}", flush=True)
    for k in (len(wrong) // 8, len(wrong) // 4, len(wrong) // 2, len(wrong)):
        precision = {tool: float(np.mean([name in wrong for name in found[:k]])) for tool, found in named.items()}
        print(f"precision at {k}: {precision['luthier']:.3f}, cleanlab {precision['cleanlab']:.3f}", flush=True)
        yield {
            "figure": f"label_errors_precision_at_{k}",
            "value": round(precision["luthier"], 4),
            "goal": round(precision["cleanlab"], 4),
            "unit": "share",
            "peer": "cleanlab find_label_issues, same probabilities",
        }
    for tool, found in named.items():
        caught = len(wrong & set(found))
        print(f"{tool}: {len(found)} rows named, {caught / len(wrong):.3f} of the planted among them", flush=True)
    yield {
        "figure": "label_errors_named_by_both",
        "value": round(overlap, 4),
        "goal": 1.0,
        "unit": "share of those that either names",
        "peer": "cleanlab",
    }


def _rows() -> list[CheckRow]:
    found = []
    for split in ("train", "test"):
        with (DATA / "banking77" / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            for number, told in enumerate(csv.DictReader(file)):
                turns = (
                    Message(role="user", content=told["text"]),
                    Message(role="assistant", content=told["category"]),
                )
                found.append(CheckRow(f"{split}{number:012d}", split, turns, told["category"]))
    return found


def _planted(rows: list[CheckRow]) -> list[CheckRow]:
    """The rows with wrong labels in one of twenty."""
    random = np.random.default_rng(SEED)
    data = CheckData(rows, task="label", seed=SEED)
    chances = predict_texts_out_of_fold(data.prompts, data.codes, seed=SEED).probabilities.copy()
    chances[np.arange(len(data.codes)), data.codes] = -1
    second = {row.id: data.labels[place] for row, place in zip(data.rows, chances.argmax(axis=1), strict=True)}
    made = list(rows)
    for turn, place in enumerate(random.permutation(len(rows))[: round(SHARE * len(rows))]):
        others = [label for label in data.labels if label != rows[place].label]
        label = str(random.choice(others)) if turn % 2 else second[rows[place].id]
        made[place] = rows[place].saying(label=label)
    return made


def _ours(data: CheckData) -> list[str]:
    """The rows that the check names, the most doubtful first; with margin 0, all that confident learning names."""
    (found,) = LabelErrors(margin=0, min=5).look(data)
    return [row.id for row, _, _ in found.marks]


def _theirs(data: CheckData) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanlab.filter import find_label_issues

        places = find_label_issues(
            data.codes, data.held.probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
        )
    return [data.rows[place].id for place in places]


def _mask(data: CheckData, named: list[str]) -> np.ndarray:
    wanted = set(named)
    return np.array([row.id in wanted for row in data.rows])
