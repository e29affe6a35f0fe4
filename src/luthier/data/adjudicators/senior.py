"""Somebody has the last word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luthier.data.adjudicator import NOBODY, AdjudicatedLabel, AdjudicationResult, Adjudicator, Votes
from luthier.data.adjudicators.majority import MajorityAdjudicator


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
