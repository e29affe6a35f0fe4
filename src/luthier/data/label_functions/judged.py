"""What a person has judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luthier.data.annotation.annotations import judgments_of
from luthier.data.label_function import LabelFunction
from luthier.data.row import Row


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
