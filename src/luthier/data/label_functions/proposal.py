"""What a model proposes, where it is sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from luthier.data.annotation.annotations import PROPOSAL
from luthier.data.label_function import LabelFunction
from luthier.data.row import Row


class ProposalLabelFunction(LabelFunction):
    """Vote for what a model proposed in the step `prelabel`, where its confidence is high enough."""

    kind: Literal["proposal"] = "proposal"
    confidence: float = Field(default=0.8, ge=0.0, le=1.0)
    """The least confidence with which it votes."""

    def vote(self, rows: Sequence[Row]) -> list[str | None]:
        """Read the proposals."""
        return [self._one(row.meta.get(PROPOSAL)) for row in rows]

    def _one(self, proposal: Any) -> str | None:
        if not isinstance(proposal, dict) or proposal.get("confidence") is None:
            return None
        return str(proposal["label"]) if proposal["confidence"] >= self.confidence else None
