"""The training rows that are most like a request, by the words that they share."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.artifacts.dataset import list_splits
from luthier.commands.projects.workspace import load_made_plan
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_ROWS = 50_000
_MOST_TERMS = 200
_WORD = re.compile(r"\w+")


class AlikeRow(NamedTuple):
    """A training row, and how like a text it is."""

    id: str
    similarity: float
    """The cosine of the weighted words, from 0 to 1."""
    prompt: str
    answer: str
    step: str


class TextIndex(NamedTuple):
    """Texts by their words: cosine similarity of TF-IDF vectors, by postings."""

    postings: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]]
    """By word, the texts that hold it, and its weight in each."""
    idf: dict[int, float]
    size: int

    def find(self, text: str, most: int) -> list[tuple[int, float]]:
        """The texts that are most like this one, with the cosine."""
        scores = np.zeros(self.size, dtype=np.float32)
        weights = {term: (1 + math.log(n)) * self.idf.get(term, 0.0) for term, n in _terms(text).items()}
        norm = math.sqrt(math.fsum(weight**2 for weight in weights.values()))
        for term, weight in weights.items():
            if weight > 0:
                rows, values = self.postings[term]
                scores[rows] += values * np.float32(weight / norm)
        best = np.argsort(-scores, kind="stable")[:most]
        return [(int(row), min(1.0, float(scores[row]))) for row in best if scores[row] > 0]


def build_text_index(texts: list[str]) -> TextIndex:
    """Index texts by their words."""
    counted = [_terms(text) for text in texts]
    frequency = Counter(term for terms in counted for term in terms)
    idf = {term: math.log(1 + len(texts) / n) for term, n in frequency.items()}
    rows: dict[int, list[int]] = {term: [] for term in idf}
    values: dict[int, list[float]] = {term: [] for term in idf}
    for row, terms in enumerate(counted):
        weights = {term: (1 + math.log(n)) * idf[term] for term, n in terms.items()}
        norm = math.sqrt(math.fsum(weight**2 for weight in weights.values())) or 1.0
        for term, weight in weights.items():
            rows[term].append(row)
            values[term].append(weight / norm)
    postings = {term: (np.array(rows[term], np.int32), np.array(values[term], np.float32)) for term in idf}
    return TextIndex(postings, idf, len(texts))


def _terms(text: str) -> Counter[int]:
    """How often each word stands in a text; of words in other scripts, each two characters, too."""
    terms = Counter[int]()
    for word in _WORD.findall(text[:20_000].casefold()):
        parts = [word] if word.isascii() else [word, *(word[at : at + 2] for at in range(len(word) - 1))]
        terms.update(zlib.crc32(part.encode("utf-8", "surrogatepass")) for part in parts)
    return Counter(dict(terms.most_common(_MOST_TERMS)))


def find_alike_rows(workspace: Workspace, file: Path, text: str, most: int = 5) -> list[AlikeRow]:
    """The rows of the project's training data that are most like a text; none where nothing is made yet."""
    plan = load_made_plan(workspace, file, "dataset").plan
    planned_steps = [
        planned for planned in plan if planned.step.makes == "dataset" and planned.cached and not planned.step.shared
    ]
    if not planned_steps:
        return []
    step = planned_steps[-1]
    artifact = plan.artifact(step.name)
    if "train" not in list_splits(artifact):
        return []
    index, rows = _load(artifact.folder.absolute() / "examples/train.parquet")
    return [AlikeRow(rows[at][0], score, rows[at][1], rows[at][2], step.name) for at, score in index.find(text, most)]


@lru_cache(maxsize=4)
def _load(file: Path) -> tuple[TextIndex, list[tuple[str, str, str]]]:
    """The first rows of a split, indexed by what was asked; an artifact never changes."""
    import json

    import polars as pl

    rows = []
    for id, messages, label in (
        pl.scan_parquet(file).select("id", "messages", "label").head(_MOST_ROWS).collect().iter_rows()
    ):
        turns = json.loads(messages)
        prompt = "\n".join(str(turn.get("content") or "") for turn in turns if turn.get("role") == "user")
        answers = [str(turn.get("content") or "") for turn in turns if turn.get("role") == "assistant"]
        rows.append((str(id), prompt, str(label) if label else (answers or [""])[-1]))
    return build_text_index([prompt for _, prompt, _ in rows]), rows
