"""Select what a model is unsure of, alone or with diversity (MMR)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.data.selector import LabelingPool, Measure, SelectedCandidate, Selector, order_by_score_then_id
from luthier.models.embedders.lsa import LsaEmbedder
from luthier.models.embeddings.base import Embedder


class Uncertainty(Selector):
    """Rows of whose label a model is least sure (Lewis and Gale 1994); wants the step `prelabel` before it."""

    kind: Literal["uncertainty"] = "uncertainty"
    measure: Measure = "entropy"
    """`entropy` of all probabilities; `margin` between the first and the second; `confidence` of the first."""

    def choose(self, pool: LabelingPool, count: int) -> list[SelectedCandidate]:
        """Sort by uncertainty."""
        scores = pool.uncertainty(self.measure)
        return [
            SelectedCandidate(at, round(float(scores[at]), 6)) for at in order_by_score_then_id(pool, scores)[:count]
        ]


class Mmr(Selector):
    """Uncertain rows that are unlike each other (maximal marginal relevance; Carbonell and Goldstein 1998)."""

    kind: Literal["mmr"] = "mmr"
    measure: Measure = "entropy"
    """How uncertainty is measured: `entropy`, `margin` or `confidence`."""
    diversity: float = Field(default=0.3, ge=0.0, le=1.0)
    """What likeness to rows that are chosen or labelled costs: 0 goes by uncertainty alone, 1 by likeness alone."""
    embedder: Embedder = LsaEmbedder()
    """What makes points of the texts; an `encoder` also sees that other words mean the same."""

    def choose(self, pool: LabelingPool, count: int) -> list[SelectedCandidate]:
        """Again and again the row with most uncertainty less likeness."""
        import numpy as np

        number = len(pool.candidates)
        if number == 0:
            return []
        unsure = pool.uncertainty(self.measure)
        points, known = pool.points(self.embedder)
        rank = np.empty(number, dtype=np.int64)
        rank[order_by_score_then_id(pool, unsure)] = np.arange(number)
        like = (points @ known.T).max(axis=1) if len(known) else np.zeros(number)
        left = np.ones(number, dtype=bool)
        chosen: list[SelectedCandidate] = []
        for _ in range(min(count, number)):
            worth = (1 - self.diversity) * unsure - self.diversity * like
            at = int(np.lexsort((rank, -np.round(np.where(left, worth, -np.inf), 9)))[0])
            chosen.append(SelectedCandidate(at, round(float(worth[at]), 6)))
            left[at] = False
            like = np.maximum(like, points @ points[at])
        return chosen
