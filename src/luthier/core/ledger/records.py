"""What the ledger gives back: plain frozen records, the same for every database."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.described import described

State = Literal["running", "done", "failed", "interrupted"]


class RunStep(BaseModel):
    """One step of a run."""

    model_config = ConfigDict(frozen=True, from_attributes=True, json_schema_extra=described)

    name: str
    """The step's name in the recipe."""
    kind: str
    artifact: str
    """Digest of the artifact that it made or found."""
    cached: bool
    """Whether the artifact was there already."""
    seconds: float


class Run(BaseModel):
    """One run of a recipe, with the steps that it has finished."""

    model_config = ConfigDict(frozen=True, from_attributes=True, json_schema_extra=described)

    id: str
    recipe: str
    """The recipe's name."""
    recipe_digest: str
    folder: str
    """The recipe's folder."""
    recipe_file: str | None = None
    """The name of the recipe's file in that folder; None for a run of an earlier version, which did not record it."""
    recipe_text: str | None = None
    """The recipe as it was written, without the overrides."""
    overrides: list[str] | None = None
    """The overrides that were given on the command line, as PATH=VALUE."""
    started_at: datetime
    finished_at: datetime | None
    state: State
    exit_code: int | None
    error: dict[str, Any] | None
    """The documented shape of the error that ended it."""
    steps: list[RunStep]
