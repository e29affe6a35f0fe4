"""Pictures and sounds of files that people label: a folder or zip of them, or rows that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from luthier.annotation.media import write_item_media
from luthier.core.errors import InputError, SourceLocation

if TYPE_CHECKING:
    from luthier.chat.messages import Message
    from luthier.data.row import BrokenRow, SourceRecord
    from luthier.data.source import FileSource

_TOGETHER = "put the rows and their files into one zip: `metadata.csv` with a column `file_name`, beside the files"


class FileMediaIntake:
    """Reads the rows of a file as `prepare` reads them, and keeps the bytes of their media in a store."""

    def __init__(self, path: Path, store: Path) -> None:
        self._path, self._store = path, store
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        from luthier.data.engine.media import MediaIntake

        self._source = _build_source(self._path)
        self._intake = MediaIntake(self._source, self._path.parent)
        self._opened.callback(self._intake.close)
        self._scratch = self._intake.share()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read_records(self) -> Iterator[SourceRecord | BrokenRow]:
        """Every row, in order."""
        return self._source.read(self._path.parent, lambda _: None)

    def has_media(self, record: SourceRecord) -> bool:
        """Whether a row holds or names pictures, sounds or films."""
        return bool(self._find_columns(record.values) or self._list_parts(record))

    def name_file(self, record: SourceRecord) -> str:
        """The file that a row is, from the folder on; empty where the row stands in a table."""
        from luthier.data.columns.media import is_media_path

        name = PurePosixPath(record.file)
        return str(PurePosixPath(*name.parts[1:])) if is_media_path(name) and len(name.parts) > 1 else ""

    def take(self, record: SourceRecord, column: str) -> tuple[Message, ...]:
        """A row as messages with its media; `column` is the text that is shown, empty for the row's own messages.

        `InputError` with file and line for media that cannot be read.
        """
        from luthier.chat.messages import Message
        from luthier.data.columns.mapping import MappedRecord
        from luthier.data.columns.media import COLUMNS, list_addresses, put_marks_first
        from luthier.data.columns.turns import parse_conversation_cell
        from luthier.data.row import UnusableRowError

        values = record.values
        try:
            addresses: dict[str, list[str]] = {}
            for name, kind in self._find_columns(values).items():
                addresses.setdefault(COLUMNS[kind], []).extend(list_addresses(values[name], kind, name))
            messages: tuple[Message, ...] = (Message(role="user", content=str(values.get(column) or "")),)
            if not column and "messages" in values:
                messages = parse_conversation_cell(values["messages"], "messages")
                for name, listed in self._list_parts(record).items():
                    addresses[name] = [*listed, *addresses.get(name, ())]
            messages = put_marks_first(messages, addresses)
            taken = self._intake.take(MappedRecord(messages, "chat", (), dict(addresses), None, None))
        except UnusableRowError as error:
            where = SourceLocation(file=self._path.name, line=record.line, field=error.field)
            raise InputError(error.problem, where=where, hint=_TOGETHER) from error
        for medium in (medium for message in taken.messages for medium in message.media):
            write_item_media(self._store, medium, self._scratch.read(medium.digest))
        return taken.messages

    def _find_columns(self, values: dict[str, Any]) -> dict[str, str]:
        """The columns of a row that hold media; a path in one that is named so counts, too: people must see it."""
        from luthier.data.columns.media import MEDIA_NAMES

        found = self._source.find_media_columns([values], MEDIA_NAMES)
        return {name: kind for name, kind in found.items() if values.get(name)}

    def _list_parts(self, record: SourceRecord) -> dict[str, list[str]]:
        """The addresses of media in a row's messages, by column."""
        from luthier.data.columns.media import media_of
        from luthier.data.row import UnusableRowError

        try:
            return media_of(record.values.get("messages") or [], "messages", record.values)
        except UnusableRowError as error:
            where = SourceLocation(file=self._path.name, line=record.line, field=error.field)
            raise InputError(error.problem, where=where, hint=error.hint or _TOGETHER) from error


def _build_source(path: Path) -> FileSource:
    """What reads the rows of a file. A folder or zip of pictures or sounds needs no classes: people give them."""
    from luthier.data.columns.media import is_media_path
    from luthier.data.columns.recognize import build_source_for_file, build_source_for_path
    from luthier.data.formats.files import SourceFile
    from luthier.data.formats.media_files import guess_media_folder
    from luthier.data.sources.mediafolder import MediaFolderSource

    if path.is_dir() or path.suffix.lower() == ".zip":
        if path.is_dir():
            names = [PurePosixPath(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
        else:
            names = [PurePosixPath(file.name) for file in SourceFile(path, path.name).inside()]
        if sum(map(is_media_path, names)) * 2 > len(names):
            return MediaFolderSource(path=path.name)
        return build_source_for_path(path)[0]
    source = build_source_for_file(SourceFile(path, path.name))
    folder = guess_media_folder(source, path.parent)
    return source if folder is None else source.model_copy(update={"media_folder": folder})
