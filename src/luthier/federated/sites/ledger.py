"""A site's log of all messages: append-only, each line chained to the one before by its hash."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from luthier.core.errors import CorruptArtifact, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.federated.errors import explain_settings
from luthier.federated.privacy import PrivacySpending

LEDGER = "log.jsonl"
_BEGIN = "0" * 64


class LedgerEntry(BaseModel):
    """A message that came or went."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: str
    """When, in UTC."""
    federation: str
    way: Literal["in", "out", "refused"]
    """`refused`: it came, and nothing was computed or sent for it."""
    number: int
    kind: str
    """Of the message: `order`, `round`, `update`, …"""
    digest: str
    """SHA-256 of the message before encryption, or of the envelope where it was not opened."""
    bytes: int
    seconds: float = 0.0
    """What computing the answer took."""
    why: str = ""
    spent: PrivacySpending | None = None
    """What the round costs the rows, written before anything is computed."""
    before: str = _BEGIN
    """SHA-256 of the line before."""


class SiteLedger:
    """The log of one site."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER

    def append(self, entry: LedgerEntry) -> None:
        """Add an entry, on the disk before anything is sent; `CorruptArtifact` when the log was changed, and
        `SystemResourceError` when it cannot be written, which leaves it as it was."""
        with translate_write_errors(self.path), self.path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            *_, last = [(_BEGIN, None), *self._read_chain()]
            line = entry.model_copy(update={"before": last[0]}).model_dump(mode="json", exclude_none=True)
            end = sum(map(len, self._read_lines()))
            file.truncate(end)  # half a line, which a lost machine left
            rest = json.dumps(line, sort_keys=True).encode() + b"\n"
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def read(self) -> list[LedgerEntry]:
        """All entries, the first first; `CorruptArtifact` names the first line that was changed."""
        return [entry for _, entry in self._read_chain()]

    def _read_chain(self) -> Iterator[tuple[str, LedgerEntry]]:
        before = _BEGIN
        for number, line in enumerate(map(bytes.rstrip, self._read_lines()), start=1):
            try:
                entry = LedgerEntry.model_validate_json(line)
            except ValidationError as error:
                raise self._changed(number, explain_settings(error, LedgerEntry)[0]) from error
            if entry.before != before:
                raise self._changed(number)
            before = hashlib.sha256(line).hexdigest()
            yield before, entry

    def _read_lines(self) -> list[bytes]:
        """Return complete lines with their ends; an incomplete last line was never acted upon."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]

    def _changed(self, number: int, why: str = "") -> CorruptArtifact:
        where = SourceLocation(file=str(self.path), line=number)
        hint = "the log is append-only: compare it with a copy, and find out who wrote here"
        return CorruptArtifact(
            f"the chain of the log is broken here: a line was changed or left out{f' ({why})' if why else ''}",
            where=where,
            hint=hint,
        )

    def count_answered(self, kind: str = "update") -> int:
        """Rounds of all federations that were answered, or other messages by the kind of their answer."""
        found = {(entry.federation, entry.number) for entry in self.read() if (entry.way, entry.kind) == ("out", kind)}
        return len(found)

    def find_last_answered(self, federation: str) -> int:
        """The greatest number of a federation's messages that were answered by more than a refusal; -1 where none
        was."""
        return max(
            (
                entry.number
                for entry in self.read()
                if (entry.federation, entry.way) == (federation, "out") and entry.kind != "rejection"
            ),
            default=-1,
        )

    def count_comparisons(self, without: str) -> int:
        """Federations, but for one, in which peers were answered about rows."""
        found = {entry.federation for entry in self.read() if (entry.way, entry.kind) == ("out", "evaluated_rows")}
        return len(found - {without})

    def list_spent(self, without: Callable[[LedgerEntry], bool]) -> tuple[PrivacySpending, ...]:
        """Return the privacy cost of rounds of all federations, except some; a repeated message costs once."""
        found = {
            (entry.federation, entry.number): entry.spent
            for entry in self.read()
            if entry.way == "in" and entry.spent is not None and not without(entry)
        }
        return tuple(found.values())

    def sum_hours(self, federation: str) -> float:
        """Hours that computing for a federation took."""
        return sum(entry.seconds for entry in self.read() if entry.federation == federation) / 3600
