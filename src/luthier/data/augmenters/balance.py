"""Rare classes brought nearer to frequent ones, by other augmenters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Annotated, Literal

from pydantic import Field, field_validator

from luthier.core.errors import DataError, SourceLocation
from luthier.core.param_space import ParamDistribution
from luthier.data.augmenter import AugmentContext, AugmentedDraft, Augmenter, AugmentRequest


def _usual() -> tuple[Augmenter, ...]:
    return (Augmenter.parse("synonyms"), Augmenter.parse("noise"))


class ClassBalance(Augmenter):
    """Make rows of rare classes only, until each has a wanted share of the most frequent one's rows.

    The augmenters in `by` take turns; where one finds nothing to change in a row, the next one is asked. The step's
    `share` still bounds all made rows together.
    """

    kind: Literal["balance"] = "balance"

    copies: int = Field(default=20, ge=1, le=1000)
    """Rows that are tried of one training row at most: what a class with very few rows is limited to."""
    by: tuple[Augmenter, ...] = Field(default_factory=_usual)
    """What makes the rows; synonyms and noise by default."""
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Rows that each class is brought to, as a share of the most frequent class's rows; 1 makes all equal."""

    @field_validator("by", mode="after")
    @classmethod
    def _somebody(cls, by: tuple[Augmenter, ...]) -> tuple[Augmenter, ...]:
        if not by or any(isinstance(augmenter, ClassBalance) for augmenter in by):
            raise ValueError("wants other augmenters, one at least, as in `by: [synonyms, noise]`")
        return by

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """The draft of the augmenter whose turn it is, or of the next that finds something."""
        augmented_drafts: list[AugmentedDraft | None] = [None] * len(requests)
        for turn in range(len(self.by)):
            for number, augmenter in enumerate(self.by):
                indices = [
                    index
                    for index, request in enumerate(requests)
                    if augmented_drafts[index] is None and (request.copy + turn) % len(self.by) == number
                ]
                drafts = augmenter.write([requests[index] for index in indices], around) if indices else ()
                for index, draft in zip(indices, drafts, strict=True):
                    augmented_drafts[index] = draft
        return augmented_drafts

    def needs_model(self) -> bool:
        """Whether one of its augmenters does."""
        return any(augmenter.needs_model() for augmenter in self.by)

    def limits(self, labels: Mapping[str, int]) -> Mapping[str, int]:
        """What each class lacks."""
        if not labels:
            where, hint = SourceLocation(field="augmenters"), "leave it out, or set the data's `task: label`"
            raise DataError("balance wants classes, and the answers are free text", where=where, hint=hint)
        target_rows = ceil(self.ratio * max(labels.values()) - 1e-9)
        return {label: target_rows - rows for label, rows in labels.items() if rows < target_rows}

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """How near the classes are brought to each other."""
        return {"ratio": ParamDistribution(0.2, 1.0)}
