"""Select without asking a model: at random, or to cover the pool (k-center)."""

from __future__ import annotations

from typing import Literal

from luthier.core.hashing import digest_of
from luthier.data.selector import LabelingPool, SelectedCandidate, Selector, order_by_score_then_id
from luthier.models.embedders.lsa import LsaEmbedder
from luthier.models.embeddings.base import Embedder


class RandomSelector(Selector):
    """A random sample, drawn by content and seed: what an honest measure needs, and what others are compared with."""

    kind: Literal["random"] = "random"

    def choose(self, pool: LabelingPool, count: int) -> list[SelectedCandidate]:
        """Sort by a digest of seed and id."""
        lots = {at: digest_of([pool.seed, candidate.id]) for at, candidate in enumerate(pool.candidates)}
        return [SelectedCandidate(at, 0.0) for at in sorted(lots, key=lots.__getitem__)[:count]]


class KCenter(Selector):
    """Rows that leave no text far from a labelled one (greedy k-center; Sener and Savarese 2018); wants no model."""

    kind: Literal["k_center"] = "k_center"
    embedder: Embedder = LsaEmbedder()
    """What makes points of the texts; an `encoder` also sees that other words mean the same."""

    def choose(self, pool: LabelingPool, count: int) -> list[SelectedCandidate]:
        """Again and again the text farthest from what is labelled or chosen; the first of all is the most central."""
        import numpy as np

        number = len(pool.candidates)
        if number == 0:
            return []
        points, known = pool.points(self.embedder)
        order = order_by_score_then_id(pool, np.zeros(number))
        rank = np.empty(number, dtype=np.int64)
        rank[order] = np.arange(number)
        far = 1 - (points @ known.T).max(axis=1) if len(known) else -(1 - points @ points.mean(axis=0))
        chosen: list[SelectedCandidate] = []
        left = np.ones(number, dtype=bool)
        for step in range(min(count, number)):
            at = int(np.lexsort((rank, -np.round(np.where(left, far, -np.inf), 9)))[0])
            distance = 1.0 if step == 0 and not len(known) else float(far[at])
            chosen.append(SelectedCandidate(at, round(distance, 6)))
            left[at] = False
            near = 1 - points @ points[at]
            far = near if step == 0 and not len(known) else np.minimum(far, near)
        return chosen
