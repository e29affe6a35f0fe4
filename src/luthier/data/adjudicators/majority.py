"""Most votes win."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from luthier.data.adjudicator import (
    NOBODY,
    AdjudicatedLabel,
    AdjudicationResult,
    Adjudicator,
    Votes,
    count_votes,
    format_votes,
)


class MajorityAdjudicator(Adjudicator):
    """The label with most votes; ties are left out."""

    kind: Literal["majority"] = "majority"
    min: int = Field(default=1, ge=1)
    """Items with fewer judgments are left out."""
    share: float = Field(default=0.0, ge=0.0, le=1.0)
    """The winner needs more than this share of the votes; 0.5 is an absolute majority."""

    def decide(self, items: Sequence[Votes]) -> AdjudicationResult:
        """Count each item's votes."""
        return AdjudicationResult([self._one(votes) for votes in items])

    def _one(self, votes: Votes) -> AdjudicatedLabel:
        if not votes:
            return NOBODY
        if len(votes) < self.min:
            return AdjudicatedLabel(None, why=f"too few judgments: {len(votes)} of {self.min}")
        ranked = count_votes(votes).most_common()
        label, count = ranked[0]
        if len(ranked) > 1 and ranked[1][1] == count:
            return AdjudicatedLabel(None, why=f"tie: {format_votes(votes)}")
        if count / len(votes) <= self.share:
            return AdjudicatedLabel(None, why=f"no sufficient majority: {format_votes(votes)}")
        return AdjudicatedLabel(label, count / len(votes))
