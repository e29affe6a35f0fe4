"""Relevance: whether question and answer are about the same, by text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.core.context import RunContext
from luthier.core.scorer import Column, Scorer, ScorerRow
from luthier.models.embedders.lsa import LsaEmbedder
from luthier.models.embeddings.base import Embedder


class RelevanceScorer(Scorer):
    """The cosine between the points of question and answer; a text of which nothing is known is a gap."""

    kind: Literal["embedding"] = "embedding"
    writes: ClassVar[tuple[str, ...]] = ("relevance",)
    asks: ClassVar[bool] = True

    embedder: Embedder = LsaEmbedder()
    """What makes points of texts; `encoder` knows meaning, the default only which words go together in these rows."""

    def columns(self, rows: Sequence[ScorerRow], context: RunContext) -> dict[str, Column]:
        """Return one cosine similarity a row."""
        from luthier.models.embeddings.base import paired_cosine_similarity

        questions, predictions = [row.question for row in rows], [row.prediction for row in rows]
        points = self.embedder.points([*questions, *predictions], recipe_dir=context.recipe_dir, seed=0)
        one, other = points[: len(rows)], points[len(rows) :]
        pairs = zip(paired_cosine_similarity(one, other), one, other, strict=True)
        return {"relevance": [round(float(near), 6) if a.any() and b.any() else None for near, a, b in pairs]}
