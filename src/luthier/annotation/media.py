"""The pictures and sounds of items: which data set or traffic keeps their bytes, and who may see them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from luthier.chat.messages import MEDIA_MARK, Media
from luthier.core.artifact import MAKE_ANEW
from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError, LuthierError, SourceLocation, UnknownName
from luthier.core.files import write_atomically

if TYPE_CHECKING:
    from luthier.annotation.question import QuestionItem
    from luthier.artifacts.media import MediaReader
    from luthier.core.db import Ledger

_SQLITE = "sqlite:///"
LABELING_FOLDER = "labeling"
"""The folder of a store that keeps the media of files which people label: a file each, named by its digest."""
_OPEN_READERS = 4
"""Data sets whose index is held: 44 bytes a medium."""


class MediaLocation(BaseModel):
    """What keeps the bytes of the pictures and sounds of a project's items."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    store: Annotated[str, Field(min_length=1)]
    """The store: a path from the folder of the database on, a whole path, or a URL."""
    dataset: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,64}$")] | None = None
    """The digest of the data set whose rows the items are; None: the items came from a file, whose media the store
    keeps in its folder `labeling`."""


def list_message_media(message: Mapping[str, Any]) -> list[Media]:
    """The pictures and sounds that a message of an item names, in order; none where its `media` is something else."""
    listed = message.get("media")
    try:
        return [Media.model_validate(entry) for entry in listed] if isinstance(listed, list | tuple) else []
    except ValidationError:
        return []


class ContentPart(NamedTuple):
    """A piece of what a message says: a text, or a picture or sound in its place."""

    text: str
    medium: Media | None = None


def split_content(message: Mapping[str, Any]) -> list[ContentPart]:
    """What a message of an item says, with its pictures and sounds where they stand; those without a place come last,
    and a place without any is left out."""
    media = list_message_media(message)
    texts = str(message.get("content") or "").split(MEDIA_MARK)
    parts: list[ContentPart] = []
    for index, text in enumerate(texts):
        parts += [ContentPart(text.strip("\n"))] if text.strip() else []
        parts += [ContentPart("", media[index])] if index < min(len(media), len(texts) - 1) else []
    return [*parts, *(ContentPart("", medium) for medium in media[len(texts) - 1 :])]


def locate_store(store: str, ledger: Ledger, dataset: str | None = None) -> MediaLocation:
    """Where media are kept, so that they are found again when the folder of the database moves with the store."""
    from luthier.core.remote_store import find_store_root, is_remote

    if is_remote(store):
        return MediaLocation(store=store, dataset=dataset)
    root, home = find_store_root(store).absolute(), _home(ledger.location)
    is_inside = home is not None and root.is_relative_to(home)
    return MediaLocation(store=root.relative_to(home).as_posix() if home and is_inside else str(root), dataset=dataset)


def _home(ledger: str) -> Path | None:
    """The folder whose store holds a ledger in a file; None for a database elsewhere."""
    return Path(ledger.removeprefix(_SQLITE)).absolute().parent.parent if ledger.startswith(_SQLITE) else None


def write_item_media(store: Path, medium: Media, content: bytes) -> None:
    """Keep the bytes of a medium of a file's rows in a store; those that are kept already stay."""
    path = _locate_file(store, medium)
    if not path.is_file():
        write_atomically(path, content)


def _locate_file(store: Path, medium: Media) -> Path:
    return store / LABELING_FOLDER / medium.digest[:2] / medium.digest


def _find_store(location: MediaLocation, ledger: Ledger) -> str:
    from luthier.core.remote_store import is_remote

    home = _home(ledger.location)
    return location.store if is_remote(location.store) or home is None else str(home / location.store)


class ItemMediaReader:
    """Reads the bytes of what items show and play; the data sets read last stay open. Threads may read at once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._readers: OrderedDict[MediaLocation, MediaReader] = OrderedDict()
        self._turn = RLock()

    def read(self, location: MediaLocation, medium: Media) -> bytes:
        """The bytes of a medium; `LuthierError` where they, or their data set, are gone, or not what was kept."""
        if location.dataset is None:
            path = _locate_file(Path(_find_store(location, self._ledger)), medium)
            try:
                content = path.read_bytes()
            except FileNotFoundError as error:
                raise DataError("is not kept any more", where=SourceLocation(file=str(path))) from error
        else:
            content = self._read_dataset(location, medium.digest)
        if hashlib.sha256(content).hexdigest() != medium.digest:
            raise DataError(f"the bytes of {medium.describe()} differ from what was made", hint=MAKE_ANEW)
        return content

    def close(self) -> None:
        """Close the data sets."""
        with self._turn:
            while self._readers:
                self._readers.popitem()[1].close()

    def _read_dataset(self, location: MediaLocation, digest: str) -> bytes:
        with self._turn:
            try:
                return self._open(location).read(digest)
            except (LuthierError, OSError):
                self._forget(location)  # it may be made again meanwhile
                raise

    def _open(self, location: MediaLocation) -> MediaReader:
        if location not in self._readers:
            from luthier.artifacts.media import MediaReader
            from luthier.core.remote_store import open_store

            assert location.dataset is not None, "the store's own folder is no data set"
            store = open_store(_find_store(location, self._ledger))
            self._readers[location] = MediaReader(store.open(location.dataset))
            if len(self._readers) > _OPEN_READERS:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(location)
        return self._readers[location]

    def _forget(self, location: MediaLocation) -> None:
        if (reader := self._readers.pop(location, None)) is not None:
            reader.close()


def find_shown_item(ledger: Ledger, project_id: str, item: int, annotator: str | None = None) -> QuestionItem:
    """What people see of an item; `UnknownName` where it is not in the project, or the annotator never got it.

    Without an annotator, for people who may see all items.
    """
    from luthier.annotation.project import item_from_json
    from luthier.core.db.tables.annotation import AnnotationItemRow, AssignmentRow

    with ledger.reading() as session:
        row = session.get(AnnotationItemRow, item)
        is_theirs = annotator is None or session.get(AssignmentRow, (item, annotator)) is not None
        if row is None or row.project_id != project_id or not is_theirs:
            raise UnknownName(f"there is no item {item}")
        return item_from_json(row.shown)
