"""Explanations of a whole model, each a file of its own with the measures that gates rule on.

A step that explains writes one of them: `explain.json` (which method explains this model), `model_diff.json` (what
tuning changed), `counterfactuals.json` (the smallest edits that flip a label), `surrogate.json` (rules that stand for a
classifier) or `conformal.json` (label sets with a promised coverage).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from luthier.artifacts.explanation import MeasureOverRows
from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions
from luthier.core.files import json_bytes, write_atomically


class FrozenRecord(BaseModel):
    """Frozen, without unknown fields, without NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )


class ModelExplanationRecord(FrozenRecord):
    """What a step says of a model in a sentence and in measures over rows."""

    kind: ClassVar[str]
    """The kind of the step; rules of a gate begin with it (`conformal.coverage >= 0.9`)."""
    known_measures: ClassVar[tuple[str, ...]]
    """Names of all measures that it can have."""

    model: str
    digest: str
    """The model's artifact."""
    rows: int
    """Rows that were measured."""
    sentence: str
    """What was found, in plain words."""
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""
    skipped: dict[str, int] = Field(default_factory=dict)
    """Rows that were left out, by reason."""
    measures: dict[str, MeasureOverRows]
    """By name; what could not be measured is left out."""

    @classmethod
    def read(cls, artifact: Artifact) -> Self:
        """That of a step's artifact."""
        return cls.model_validate(artifact.read_json(f"{cls.kind}.json"))

    def write(self, folder: Path) -> None:
        """Write `KIND.json` into a folder."""
        write_atomically(folder / f"{self.kind}.json", json_bytes(self.model_dump(mode="json")))

    def measure(self, name: str) -> MeasureOverRows | None:
        """A measure by the name that a gate's rule uses, without the kind in front; None for one that was not taken."""
        return self.measures.get(name)
