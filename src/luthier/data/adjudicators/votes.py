"""Adjudicators that count votes: majority, unanimity, and the word of senior annotators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def _decide_each(items: Sequence[Votes], least: int, decide: Callable[[Votes], AdjudicatedLabel]) -> AdjudicationResult:
    """Decide every item by itself that has at least `least` votes."""

    def one(votes: Votes) -> AdjudicatedLabel:
        if not votes:
            return NOBODY
        if len(votes) < least:
            return AdjudicatedLabel(None, why=f"too few judgments: {len(votes)} of {least}")
        return decide(votes)

    return AdjudicationResult([one(votes) for votes in items])


class MajorityAdjudicator(Adjudicator):
    """The label with most votes; ties are left out."""

    kind: Literal["majority"] = "majority"
    min: int = Field(default=1, ge=1)
    """Items with fewer judgments are left out."""
    share: float = Field(default=0.0, ge=0.0, le=1.0)
    """The winner needs more than this share of the votes; 0.5 is an absolute majority."""

    def decide(self, items: Sequence[Votes]) -> AdjudicationResult:
        """Count each item's votes."""
        return _decide_each(items, self.min, self._one)

    def _one(self, votes: Votes) -> AdjudicatedLabel:
        ranked = count_votes(votes).most_common()
        label, count = ranked[0]
        if len(ranked) > 1 and ranked[1][1] == count:
            return AdjudicatedLabel(None, why=f"tie: {format_votes(votes)}")
        if count / len(votes) <= self.share:
            return AdjudicatedLabel(None, why=f"no sufficient majority: {format_votes(votes)}")
        return AdjudicatedLabel(label, count / len(votes))


class UnanimousAdjudicator(Adjudicator):
    """The label that everybody chose; items on which anybody differs are left out."""

    kind: Literal["unanimous"] = "unanimous"
    min: int = Field(default=2, ge=1)
    """Items with fewer judgments are left out."""

    def decide(self, items: Sequence[Votes]) -> AdjudicationResult:
        """Look whether each item's votes are equal."""
        return _decide_each(items, self.min, self._one)

    def _one(self, votes: Votes) -> AdjudicatedLabel:
        if len(count_votes(votes)) > 1:
            return AdjudicatedLabel(None, why=f"not unanimous: {format_votes(votes)}")
        return AdjudicatedLabel(votes[0].value, 1.0)


class SeniorAdjudicator(Adjudicator):
    """The label of the first annotator in `annotators` who labeled the item; another rule decides where none of them
    did."""

    kind: Literal["senior"] = "senior"
    annotators: tuple[str, ...] = ()
    """Whose word counts, the most senior first."""
    otherwise: Adjudicator = MajorityAdjudicator()
    """The rule for items that none of them judged."""

    def decide(self, items: Sequence[Votes]) -> AdjudicationResult:
        """Ask the seniors, and the other rule for the rest."""
        rest = self.otherwise.decide(items)
        return AdjudicationResult(
            [self._word(votes) or other for votes, other in zip(items, rest.decisions, strict=True)], rest.quality
        )

    def _word(self, votes: Votes) -> AdjudicatedLabel | None:
        if not votes:
            return NOBODY
        by = {vote.annotator: vote.value for vote in votes}
        return next((AdjudicatedLabel(by[name], 1.0) for name in self.annotators if name in by), None)
