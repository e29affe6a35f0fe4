"""Twins by meaning among real questions to a bank, and what an encoder costs beside sentence-transformers.

BANKING77's training questions (CC-BY-4.0, from the project's shared data beside the checkout), whose people-made
intents tell whether two questions want the same: of all pairs whose cosine reaches a threshold, how many share their
intent. The reading order of the two libraries is interleaved; CPU-seconds are of this process.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from luthier.data.dedup.similarity import CosineDuplicateFinder
from luthier.models.embedders.encoder import EncoderEmbedder
from luthier.models.embeddings.base import Embedder

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT.parent / "shared" / "data" / "banking77" / "train.csv"
THRESHOLDS = (0.7, 0.8, 0.9, 0.95)


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """Print both embedders' pairs at several thresholds; then speed and difference beside the peer."""
    if not QUESTIONS.is_file():
        print("banking77: not beside the checkout; left out")
        return
    with QUESTIONS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:: 10 if quick else 2]
    texts, intents = [row["text"] for row in rows], np.array([row["category"] for row in rows])
    print(f"{len(texts)} questions, {len(set(intents))} intents")
    for kind in ("lsa", "encoder"):
        yield from _pairs(kind, texts, intents)
    yield from _beside_peer(texts[:400])


def _pairs(kind: str, texts: list[str], intents: Any) -> Iterator[dict[str, Any]]:
    before = time.process_time()
    points = Embedder.parse(kind).points(texts, recipe_dir=Path(), seed=0)
    read = time.process_time() - before
    before = time.process_time()
    CosineDuplicateFinder(points, np.arange(len(texts)), 0.9).kept_twins()
    print(f"{kind}: read in {read:.1f} CPU-s, compared in {time.process_time() - before:.2f} CPU-s")
    like = np.triu(points @ points.T, 1)
    for threshold in THRESHOLDS:
        one, other = np.nonzero(like >= threshold)
        same = float((intents[one] == intents[other]).mean()) if len(one) else 1.0
        print(f"  cosine >= {threshold}: {len(one)} pairs, {100 * same:.1f} % of one intent")
        yield {"figure": f"same_intent_{kind}_{threshold}", "value": round(same, 4), "goal": None, "unit": "share"}


def _beside_peer(texts: list[str]) -> Iterator[dict[str, Any]]:
    from sentence_transformers import SentenceTransformer

    encoder = EncoderEmbedder()
    ours = encoder.space([], recipe_dir=Path(), seed=0)
    theirs = SentenceTransformer(str(encoder._folder(Path(), print)), device="cpu")
    spent = {"ours": 0.0, "theirs": 0.0}
    apart = 0.0
    for start in range(0, len(texts), 100):
        some, found = texts[start : start + 100], {}
        for name in ("ours", "theirs"):
            before = time.process_time()
            found[name] = ours.points(some) if name == "ours" else theirs.encode(some, show_progress_bar=False)
            spent[name] += time.process_time() - before
        apart = max(apart, float(np.abs(found["ours"] - found["theirs"]).max()))
    ratio = spent["theirs"] / spent["ours"]
    print(f"{len(texts)} questions: {spent['ours']:.1f} CPU-s, sentence-transformers {spent['theirs']:.1f} CPU-s")
    peer = "sentence-transformers"
    yield {"figure": "encoder_speed", "value": round(ratio, 2), "goal": 0.9, "unit": "x", "peer": peer}
    yield {"figure": "encoder_difference", "value": float(f"{apart:.1e}"), "goal": 1e-6, "unit": "", "peer": peer}
