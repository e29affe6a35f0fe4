"""All must agree."""

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


class UnanimousAdjudicator(Adjudicator):
    """The label that everybody chose; items on which anybody differs are left out."""

    kind: Literal["unanimous"] = "unanimous"
    min: int = Field(default=2, ge=1)
    """Items with fewer judgments are left out."""

    def decide(self, items: Sequence[Votes]) -> AdjudicationResult:
        """Look whether each item's votes are equal."""
        return AdjudicationResult([self._one(votes) for votes in items])

    def _one(self, votes: Votes) -> AdjudicatedLabel:
        if not votes:
            return NOBODY
        if len(votes) < self.min:
            return AdjudicatedLabel(None, why=f"too few judgments: {len(votes)} of {self.min}")
        if len(count_votes(votes)) > 1:
            return AdjudicatedLabel(None, why=f"not unanimous: {format_votes(votes)}")
        return AdjudicatedLabel(votes[0].value, 1.0)
