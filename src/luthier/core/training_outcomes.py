"""How good this user's models turned out: numbers of past evaluations, without texts, from which advice is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.core.errors import SystemResourceError
from luthier.core.files import cache_folder, write_atomically

KEPT = 200
"""So many outcomes are remembered, the newest."""
_MOST_BYTES = 1_000_000
"""A larger file is none of ours."""


class TrainingOutcome(BaseModel):
    """One model on its held-out rows: what was trained on, how, and what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    digest: str = Field(max_length=64)
    """The evaluation, so that none is remembered twice."""
    task: Literal["label", "text"]
    train_rows: int = Field(ge=1)
    classes: int = Field(ge=0)
    """0 where answers are free text."""
    prompt_words: float = Field(ge=0)
    technique: str = Field(max_length=64)
    settings: dict[str, float | str] = Field(default={}, max_length=16)
    parameters: int = Field(default=0, ge=0)
    """Of the base model; 0 where there is none."""
    metric: str = Field(max_length=64)
    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    rows: int = Field(ge=1)
    """Held-out rows."""
    plain: float | None = Field(default=None, ge=0, le=1)
    """The same metric of the plain classifier on the same rows, where it was measured."""


class PastOutcomes(NamedTuple):
    """The outcomes that are remembered, the newest first."""

    records: tuple[TrainingOutcome, ...]
    note: str = ""
    """What of the memory was left out, and why."""


def record_outcomes(records: list[TrainingOutcome]) -> None:
    """Remember outcomes, each evaluation's once; where the cache cannot be written, nothing is kept."""
    if not records:
        return
    file = get_outcomes_path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            new = {(record.digest, record.metric) for record in records}
            before = [record for record in read_outcomes().records if (record.digest, record.metric) not in new]
            kept = [record.model_dump(mode="json") for record in [*records, *before][:KEPT]]
            write_atomically(file, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode())
    except (OSError, SystemResourceError):
        return


def read_outcomes() -> PastOutcomes:
    """The outcomes that are remembered; what is not as it was written is left out, with a note."""
    file = get_outcomes_path()
    try:
        if file.stat().st_size > _MOST_BYTES:
            return PastOutcomes((), f"{file} is larger than a memory of outcomes and was not read")
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return PastOutcomes(())
    except (OSError, ValueError, RecursionError):
        return PastOutcomes((), f"{file} cannot be read as JSON; past runs are not counted")
    if not isinstance(found, list):
        return PastOutcomes((), f"{file} is no list of outcomes; past runs are not counted")
    records, spoilt = [], 0
    for entry in found[:KEPT]:
        try:
            records.append(TrainingOutcome.model_validate(entry))
        except ValidationError:
            spoilt += 1
    note = f"{spoilt} of {len(found)} outcomes in {file} are not as they were written and are not counted"
    return PastOutcomes(tuple(records), note if spoilt else "")


def get_outcomes_path() -> Path:
    """Where outcomes are remembered."""
    return cache_folder() / "outcomes" / "outcomes.json"
