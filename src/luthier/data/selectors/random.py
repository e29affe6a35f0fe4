"""Anything: the sample that tells how the whole is."""

from __future__ import annotations

from typing import Literal

from luthier.core.hashing import digest_of
from luthier.data.selector import LabelingPool, SelectedCandidate, Selector


class RandomSelector(Selector):
    """A random sample, drawn by content and seed: what an honest measure needs, and what others are compared with."""

    kind: Literal["random"] = "random"

    def choose(self, pool: LabelingPool, count: int) -> list[SelectedCandidate]:
        """Sort by a digest of seed and id."""
        lots = {at: digest_of([pool.seed, candidate.id]) for at, candidate in enumerate(pool.candidates)}
        return [SelectedCandidate(at, 0.0) for at in sorted(lots, key=lots.__getitem__)[:count]]
