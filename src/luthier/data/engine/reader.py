"""From a source to numbered batches of rows: ids are given, broken and empty rows are sorted out with their reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from luthier.chat.messages import example_id
from luthier.core.component import digest_plugin_code, iter_components
from luthier.core.errors import DataError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.messages import gettext_noop
from luthier.data.columns.mapping import ExportedIdentity, MappedRecord
from luthier.data.columns.media import count_media
from luthier.data.engine.batch import SOURCE, drop_event, id_from_location, opening_text_of
from luthier.data.engine.media import MediaIntake
from luthier.data.engine.occurrences import FirstValueByKey, OccurrenceCounter
from luthier.data.engine.stage import StageInput
from luthier.data.engine.tables import RowEvent
from luthier.data.operator import Drop
from luthier.data.row import Batch, BrokenRow, Row, SourceRecord, UnusableRowError, chunk_by_size, count_row_characters
from luthier.data.source import Source, build_broken_row

EMPTY_ANSWER = gettext_noop("empty answer")
"""Why a row without a label is left out."""


class SourceReader:
    """Reads a source once; afterwards it knows how many rows each file had."""

    def __init__(
        self,
        source: Source,
        recipe_dir: Path,
        say: Callable[[str], None],
        *,
        batch_rows: int,
        scratch: Path | None = None,
    ) -> None:
        """`scratch` is where files may lie while rows are read; None: where the system keeps such files."""
        self.source = source
        self._base = recipe_dir
        self._tell = say
        self._said: list[str] = []
        self._batch_rows = batch_rows
        self._scratch = scratch
        self.intake = MediaIntake(source, recipe_dir, scratch)
        self._seen = OccurrenceCounter(scratch)
        self._keys = FirstValueByKey(scratch)
        self.kind = source.kind
        self.rows = 0
        self.files: Counter[str] = Counter()
        self.first_broken: BrokenRow | None = None
        self.unwanted = 0
        """Rows whose answer is one that nobody wants: KTO's `label: false`."""
        self.media: Counter[str] = Counter()
        """Rows with images, sounds and films that are not read, by column."""
        self.media_read: Counter[str] = Counter()
        """Pictures and sounds that turns hold, by kind."""

    def batches(self) -> Iterator[StageInput]:
        """Rows in batches, each with the events of rows that were left out on the way."""
        for found in chunk_by_size(self._numbered(), self._batch_rows, _size):
            rows = [made for _, made in found if isinstance(made, Row)]
            yield StageInput(Batch(rows), [(number, made) for number, made in found if isinstance(made, RowEvent)])
        self._seen, self._keys = (
            OccurrenceCounter(self._scratch),
            FirstValueByKey(self._scratch),
        )  # what comes later needs the room
        if self.rows == 0:
            raise DataError(
                "the source has no rows", where=SourceLocation(field="source"), hint="check where it reads from"
            )

    @property
    def metadata(self) -> dict[str, dict[str, int]]:
        """Media whose file carried metadata, by what they were and kind of medium."""
        return {name: dict(counts) for name, counts in sorted(self.intake.metadata.items())}

    @cached_property
    def identity(self) -> str | None:
        """A digest of what is read and how; None where that may change on the way, or cannot be known."""
        found = external_fingerprints(self.source, self._base)
        code = digest_plugin_code(self.source)
        return digest_of([self.source.settings(), found, code]) if found and any(found) else None

    def as_dict(self) -> dict[str, Any]:
        """What it knows behind the last row, as plain values."""
        return {
            "rows": self.rows,
            "files": self.files,
            "first_broken": self.first_broken,
            "unwanted": self.unwanted,
            "media": self.media,
            "media_read": self.media_read,
            "metadata": self.intake.metadata,
            "said": self._said,
        }

    def again(self, state: dict[str, Any]) -> None:
        """Know what another one knew that has read the same, and say what it said."""
        self.rows, self.unwanted = state["rows"], state["unwanted"]
        self.files, self.media = Counter(state["files"]), Counter(state["media"])
        self.media_read = Counter(state["media_read"])
        self.intake.metadata = {name: Counter(counts) for name, counts in state["metadata"].items()}
        self.first_broken = BrokenRow(*state["first_broken"]) if state["first_broken"] else None
        for text in state["said"]:
            self._say(text)

    def _say(self, text: str) -> None:
        self._said.append(text)
        self._tell(text)

    def _numbered(self) -> Iterator[tuple[int, Row | RowEvent]]:
        """Every row, or the event of its being left out, with its number."""
        for found in self.source.mapped(self._base, self._say):
            made = self._row(found)
            self.rows += 1
            yield self.rows - 1, made

    def _row(self, found: tuple[SourceRecord, MappedRecord] | BrokenRow) -> Row | RowEvent:
        """A row, or the event of its being left out."""
        if not isinstance(found, BrokenRow):
            record, parts = found
            self.files[record.file] += 1
            found = self._repeated_key(record, parts) or self._with_media(record, parts)
        else:
            self.files[found.file] += 1
        if isinstance(found, BrokenRow):
            return self._broken(found)
        return self._made(*found)

    def _with_media(self, record: SourceRecord, parts: MappedRecord) -> tuple[SourceRecord, MappedRecord] | BrokenRow:
        """The row with the pictures and sounds that it shows, or why they cannot be read."""
        try:
            return record, self.intake.take(parts)
        except UnusableRowError as error:
            return build_broken_row(record, error, {})

    def _made(self, record: SourceRecord, parts: MappedRecord) -> Row | RowEvent:
        if media := count_media(parts.messages, parts.meta):
            self.media.update(media.keys())
        self.media_read.update(media.kind for message in parts.messages for media in message.media)
        self.unwanted += parts.meta.get("label") is False
        own = parts.own or ExportedIdentity(self._id(parts), self.source.kind, record.file, record.line)
        row = Row(
            n=self.rows,
            id=own.id,
            source=own.source,
            file=own.file,
            line=own.line,
            kind=parts.kind,
            messages=parts.messages,
            tools=parts.tools,
            meta=parts.meta,
            group=parts.group,
            row=record.row if parts.own is None else None,
        )
        reason = why_unusable(row)
        return drop_event(row, SOURCE, Drop(reason), opening_text_of(row)) if reason else row

    def _id(self, parts: MappedRecord) -> str:
        """The digest of the content; a later row with the same content, or the same digest, gets its own."""
        found = example_id(parts.messages, None, parts.meta)
        again = self._seen.count(int(found, 16))
        while again:
            found = example_id(parts.messages, None, parts.meta, again)
            again = again + 1 if self._seen.count(int(found, 16)) else 0
        return found

    def _repeated_key(self, record: SourceRecord, parts: MappedRecord) -> BrokenRow | None:
        key = parts.own.id if parts.own else parts.key
        if key is None:
            return None
        if (first := self._keys.value(key, record.line)) is None:
            return None
        problem = f"the id {key!r} stands in line {first}, too; ids must differ"
        return BrokenRow(record.file, record.line, problem, self.source.id, key=record.key, row=record.row)

    def _broken(self, broken: BrokenRow) -> RowEvent:
        if broken.left_out:
            name = id_from_location(self.source.kind, broken.file, broken.line)
            return RowEvent(name, broken.file, broken.line, SOURCE, "drop", broken.problem, row=broken.row)
        if self.source.on_error == "stop":
            raise broken.error()
        self.first_broken = self.first_broken or broken
        at = f" ({broken.field})" if broken.field else ""
        name = id_from_location(self.source.kind, broken.file, broken.line)
        reason = f"broken row: {broken.message}{at}"
        return RowEvent(name, broken.file, broken.line, SOURCE, "drop", reason, row=broken.row)


def external_fingerprints(part: BaseModel, recipe_dir: Path) -> list[str | None] | None:
    """Digests of what a part and those inside of it read from outside; None where that may change on the way."""
    parts = list(iter_components(part))
    return (
        None
        if any(component.living for component in parts)
        else [component.fingerprint(recipe_dir) for component in parts]
    )


def _size(numbered: tuple[int, Row | RowEvent]) -> int:
    made = numbered[1]
    return count_row_characters(made) if isinstance(made, Row) else len(made.reason)


def why_unusable(row: Row) -> str | None:
    """Why a row cannot be learnt from, whatever the operators say."""
    last = row.messages[-1]
    if last.role != "assistant":
        return f"no answer: the last turn is by {last.role}"
    if not last.content.strip() and not last.tool_calls:
        return EMPTY_ANSWER
    if len(row.messages) > 1 and row.kind == "chat" and not row.prompt.strip():
        return gettext_noop("empty prompt")
    return None
