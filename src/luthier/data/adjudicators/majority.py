"""Most votes win."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from luthier.data.adjudicator import NOBODY, Adjudicator, Decision, Verdicts, Votes, split, tally


class Majority(Adjudicator):
    """The label with most votes; ties are left out."""

    kind: Literal["majority"] = "majority"
    at_least: int = Field(default=1, ge=1)
    """Items with fewer judgments are left out."""
    share: float = Field(default=0.0, ge=0.0, le=1.0)
    """The winner needs more than this share of the votes; 0.5 is an absolute majority."""

    def decide(self, items: Sequence[Votes]) -> Verdicts:
        """Count each item's votes."""
        return Verdicts([self._one(votes) for votes in items])

    def _one(self, votes: Votes) -> Decision:
        if not votes:
            return NOBODY
        if len(votes) < self.at_least:
            return Decision(None, why=f"too few judgments: {len(votes)} of {self.at_least}")
        ranked = tally(votes).most_common()
        label, count = ranked[0]
        if len(ranked) > 1 and ranked[1][1] == count:
            return Decision(None, why=f"tie: {split(votes)}")
        if count / len(votes) <= self.share:
            return Decision(None, why=f"no sufficient majority: {split(votes)}")
        return Decision(label, count / len(votes))
