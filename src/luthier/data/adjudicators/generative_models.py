"""Adjudicators that model the annotators: Dawid-Skene, and the label model of weak supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.data.adjudicator import AdjudicationResult, Adjudicator, Votes

if TYPE_CHECKING:
    from luthier.data.annotation.aggregate import Floats, VoteMatrix


class DawidSkeneAdjudicator(Adjudicator):
    """The likeliest label, when every annotator's mistakes are told from who agrees with whom (Dawid, Skene 1979)."""

    kind: Literal["weighted"] = "weighted"
    confidence: float = Field(default=0.5, ge=0.0, le=1.0)
    """Items whose likeliest label is not more probable than this are left out."""

    def decide(self, items: Sequence[Votes]) -> AdjudicationResult:
        """Estimate, and take the likeliest."""
        from luthier.data.annotation.aggregate import dawid_skene
        from luthier.data.annotation.confidence import decide_labels

        return decide_labels(items, dawid_skene, self.confidence)


class LabelModel(Adjudicator):
    """The likeliest label under a generative model with one accuracy for each labelling function (Ratner et al. 2016).

    Suits many voters that speak seldom; of functions that never speak beside another, nothing can be learnt.
    """

    kind: Literal["label_model"] = "label_model"
    confidence: float = Field(default=0.5, ge=0.0, le=1.0)
    """Items whose likeliest label is not more probable than this are left out."""
    balance: dict[str, float] = Field(default_factory=dict)
    """The labels' shares, where they are known; else they are estimated."""

    @field_validator("balance")
    @classmethod
    def _adds_up(cls, balance: dict[str, float]) -> dict[str, float]:
        if balance and (abs(sum(balance.values()) - 1) > 1e-6 or min(balance.values()) <= 0):
            raise ValueError("the shares of a balance are above 0 and add up to 1")
        return balance

    def decide(self, items: Sequence[Votes]) -> AdjudicationResult:
        """Estimate, and take the likeliest."""
        from luthier.data.annotation.aggregate import fit_one_accuracy_per_voter
        from luthier.data.annotation.confidence import decide_labels

        return decide_labels(
            items,
            lambda vote_matrix: fit_one_accuracy_per_voter(vote_matrix, self._shares(vote_matrix)),
            self.confidence,
        )

    def _shares(self, vote_matrix: VoteMatrix) -> Floats | None:
        import numpy as np

        if not self.balance:
            return None
        if unknown := [str(label) for label in vote_matrix.labels if str(label) not in self.balance]:
            what = f"`balance` gives no share to {unknown[0]!r}, which is voted for"
            raise DataError(what, where=SourceLocation(field="balance"), hint=did_you_mean(unknown[0], self.balance))
        return np.array([self.balance[str(label)] for label in vote_matrix.labels])
