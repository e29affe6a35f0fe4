"""Corrections of single rows by people: a file of JSON lines next to the recipe, one decision a line.

A decision is only ever added, so that who decided what, and when, stays known; `restore` takes back what was decided of
a row before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import translate_write_errors

FIELD_PATTERN = r"messages\[[0-9]{1,6}\]\.content"
_LONGEST = 1_000_000


class RowCorrection(BaseModel):
    """One decision of a person about one row."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    row: str = Field(min_length=8, max_length=64)
    """The row's id, as reports and `luthier lineage` show it."""
    action: Literal["edit", "drop", "restore"]
    """Write another text, leave the row out, or take back what was decided of it before."""
    field: str | None = Field(default=None, pattern=f"^{FIELD_PATTERN}$")
    """The text that is edited: `messages[1].content`."""
    text: str | None = Field(default=None, max_length=_LONGEST)
    """What it says from now on."""
    reason: str = Field(default="", max_length=2_000)
    """Why, in the person's own words."""
    by: str = Field(min_length=1, max_length=200)
    """Who decided."""
    at: AwareDatetime
    """When."""

    @model_validator(mode="after")
    def _is_whole(self) -> RowCorrection:
        if (self.action == "edit") != (self.field is not None and self.text is not None):
            raise ValueError("an edit needs `field` and `text`, and nothing else has them")
        return self

    def signature(self) -> str:
        """Who decided it, when and why, as the row's story says it."""
        return f"{self.by}, {_minute(self.at)}{': ' if self.reason else ''}{' '.join(self.reason.split())}"


class RowDecision(BaseModel):
    """What holds of one row after all decisions about it."""

    model_config = ConfigDict(frozen=True)

    drop: RowCorrection | None = None
    edits: dict[str, RowCorrection] = {}
    """The latest edit of each text, by its field."""

    def after(self, correction: RowCorrection) -> RowDecision:
        """What holds once there is one decision more."""
        if correction.action == "restore":
            return RowDecision()
        if correction.action == "drop":
            return self.model_copy(update={"drop": correction})
        return self.model_copy(update={"edits": {**self.edits, str(correction.field): correction}})


def read_corrections(path: Path) -> Iterator[RowCorrection]:
    """The decisions of a file in order; none where there is no such file. `DataError` names a line that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=SourceLocation(file=str(path))) from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield RowCorrection.model_validate_json(line)
            except ValidationError as error:
                where = SourceLocation(file=str(path), line=number)
                what = error.errors()[0]["msg"]
                raise DataError(f"is no decision about a row: {what}", where=where, hint="mend the line") from error


def read_row_decisions(path: Path) -> dict[str, RowDecision]:
    """What holds of each row that something was decided about."""
    found: dict[str, RowDecision] = {}
    for correction in read_corrections(path):
        found[correction.row] = found.get(correction.row, RowDecision()).after(correction)
    return {row: decision for row, decision in found.items() if decision.drop or decision.edits}


def append_correction(path: Path, correction: RowCorrection) -> None:
    """Add a decision to a file; it is on the disk when this returns, and two writers do not mix their lines."""
    line = correction.model_dump_json(exclude_defaults=True) + "\n"
    lock = FileLock(path.with_name(f".{path.name}.lock"), mode=0o600)
    with translate_write_errors(path), lock, path.open("ab+") as file:
        if file.tell() and not _ends_line(path):
            line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M %Z}"
