"""Votes weigh what their annotators are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from luthier.data.adjudicator import AdjudicationResult, Adjudicator, Votes


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
