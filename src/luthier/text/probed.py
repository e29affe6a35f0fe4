"""What a probe asked and what a model said, row by row: `probes.jsonl` of an evaluation.

The room of evaluation writes it; who makes training rows of failures reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from luthier.core.artifact import Artifact
from luthier.core.described import described
from luthier.core.digest import canonical
from luthier.text.messages import Message

PROBED = "probes.jsonl"


class Probed(BaseModel):
    """One thing that was asked of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described, allow_inf_nan=False)

    probe: str
    """Kind of the probe."""
    model: str
    row: str
    """Names the question; the same for all models."""
    group: str = ""
    """Whom it is about."""
    asked: tuple[Message, ...]
    said: str
    """What the model answered or preferred."""
    wanted: str | None = None
    """What would have been right, where something would."""
    failed: bool
    """Whether this row counts against the model."""
    score: float | None = None
    """The row's own number, such as a shift of the score."""


def write(rows: Sequence[Probed]) -> bytes:
    """Rows as JSON lines."""
    lines = [canonical(row.model_dump(mode="json", exclude_defaults=True)) for row in rows]
    return "".join(line + "\n" for line in lines).encode()


def read(evaluation: Artifact) -> Iterator[Probed]:
    """The rows of an evaluation; none when its probes asked nothing."""
    if not any(entry.path == PROBED for entry in evaluation.manifest.files):
        return
    with evaluation.path(PROBED).open(encoding="utf-8") as file:
        yield from (Probed.model_validate(json.loads(line)) for line in file)
