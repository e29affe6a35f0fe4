"""Labeling functions that read labels a row already has: of a column, an annotator or a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from luthier.data.annotation.annotations import PROPOSAL, judgments_of
from luthier.data.label_function import LabelFunction
from luthier.data.row import Row


class ColumnLookup(LabelFunction):
    """Vote for what another column of the row says: its value itself, or what `values` makes of it."""

    kind: Literal["lookup"] = "lookup"
    column: str = Field(default="label", min_length=1)
    """A column of `meta`; dots lead into objects, as in `ticket.queue`."""
    values: dict[str, str] = Field(default_factory=dict)
    """Labels by the column's value; empty: the value is the label. Other values say nothing."""

    @property
    def says(self) -> str:
        """The column."""
        return self.column

    def vote(self, rows: Sequence[Row]) -> list[str | None]:
        """Look the values up."""
        return [self._one(get_dotted_path(row.meta, self.column)) for row in rows]

    def _one(self, value: Any) -> str | None:
        if value is None or isinstance(value, (dict, list)) or value == "":
            return None
        return self.values.get(str(value)) if self.values else str(value)


def get_dotted_path(meta: dict[str, Any], path: str) -> Any:
    """The value that a dotted path leads to; a column whose own name has dots is found as well."""
    if path in meta:
        return meta[path]
    first, dot, rest = path.partition(".")
    inner = meta.get(first)
    return get_dotted_path(inner, rest) if dot and isinstance(inner, dict) else None


class AnnotatorLabelFunction(LabelFunction):
    """Vote for what one annotator judged, beside rules and models."""

    kind: Literal["judged"] = "judged"
    annotator: str | None = None
    """Who; left out, whoever judged the row last."""

    @property
    def says(self) -> str:
        """The annotator."""
        return self.annotator or ""

    def vote(self, rows: Sequence[Row]) -> list[str | None]:
        """The last word on each row."""
        found: list[str | None] = []
        for row in rows:
            labels = [
                entry.get("label")
                for entry in judgments_of(row.meta)
                if self.annotator in (None, entry.get("annotator"))
            ]
            found.append(None if not labels or labels[-1] is None else str(labels[-1]))
        return found


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
