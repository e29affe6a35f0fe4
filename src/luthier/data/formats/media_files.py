"""The bytes of a picture or a sound by its address: a path below a folder or in a zip, or the content in base64.

A path leads out of its folder neither by `..` nor by a link, and names a file of bounded size: devices and pipes are
not read. Nothing is fetched here; what a source fetched is read by its URL.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING

from luthier.chat.media_bytes import sniff_media_format
from luthier.chat.media_codec import MAX_BYTES
from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import resolve_path
from luthier.core.hashing import file_digest, files_digest
from luthier.core.system.net import redact_url
from luthier.data.columns.media import (
    COLUMNS,
    MEDIA_ENDINGS,
    MEDIA_NAMES,
    VIDEO_ENDINGS,
    is_media_path,
    is_media_url,
    parse_page_address,
)
from luthier.data.formats import archives
from luthier.data.formats.files import SourceFile, open_local_file
from luthier.data.formats.video import MAX_FILM_BYTES

if TYPE_CHECKING:
    from luthier.data.source import Source

_LOOKED_AT = 20
"""So many addresses say where a folder of media is."""
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24}")
_HEAD = 24
_DATA = "data:"
_MEND = "mend the path, or set `on_error: drop` to leave such rows out and list them"


def list_media_paths(root: Path) -> list[Path]:
    """The pictures and sounds below a folder, as their names say, in order."""
    return sorted(path for path in root.rglob("*") if is_media_path(path.relative_to(root)) and path.is_file())


def guess_media_folder(source: Source, recipe_dir: Path) -> str | None:
    """The folder of the file, or the one above it, from which paths of media in the first rows lead to files; None for
    rows that name none, and a source that has a folder."""
    if source.media_root is not None or "path" not in type(source).model_fields:
        return None
    try:
        looked = source.model_copy(update={"media": "keep"}).glance(recipe_dir)
    except DataError:
        return None
    addresses = [
        address
        for record, parts in looked
        for name in (*MEDIA_NAMES, *COLUMNS.values())
        for value in (record.values.get(name), parts.meta.get(name))
        for address in (value if isinstance(value, list) else [value])
        if isinstance(address, str) and not is_media_url(address)
        for address in [parse_page_address(address).file]
        if is_media_path(PurePosixPath(address))
    ]
    base = resolve_path(getattr(source, "path", ""), recipe_dir).parent
    for folder in (".", ".."):
        if addresses and all((base / folder / address).is_file() for address in addresses[:_LOOKED_AT]):
            return folder
    return None


class MediaFolder:
    """A folder, or a zip, in which the media of a source lie."""

    def __init__(self, path: str | None, recipe_dir: Path, fetched: Callable[[str], bytes] | None = None) -> None:
        """`path` as a recipe writes it; None: no path is read. `fetched` gives the bytes of a URL."""
        self._fetched = fetched
        self._name = path
        self._root = None if path is None else resolve_path(path, recipe_dir)

    def check(self) -> None:
        """`DataError` where there is no such folder."""
        if self._root is not None and not (self._root.is_dir() or self._is_zip()):
            where = SourceLocation(file=self._name, field="media_folder")
            raise DataError("there is no such folder of media", where=where, hint="it starts at the recipe's folder")

    def fingerprint(self) -> str | None:
        """A digest of the names and contents of all media, hidden ones aside; None where there is no such folder."""
        if self._root is None:
            return None
        if self._is_zip():
            return file_digest(self._root)
        if not self._root.is_dir():
            return None
        return files_digest(list_media_paths(self._root), self._root)

    def read(self, address: str) -> bytes:
        """The bytes at an address; `DataError` says why there are none."""
        if address.startswith(_DATA):
            return _decoded(address.partition(",")[2])
        if _is_base64(address):
            return _decoded(address)
        if address.startswith("file://"):
            address = address.removeprefix("file://")
        elif is_media_url(address):
            if self._fetched is not None:
                return self._fetched(address)
            hint = "set `fetch: {}` to fetch each once under the rules of robots.txt, or download the files, name "
            hint += "their folder in `media_folder`, and write paths in place of URLs"
            raise DataError(f"media are not fetched: {redact_url(address)[:80]!r}", hint=hint)
        if self._root is None:
            hint = (
                "set `media_folder` to the folder in which paths start; `media: keep` reads none and keeps the marks, "
                "`media: drop` leaves such rows out"
            )
            raise DataError(f"{address[:80]!r} is a path, and no folder is named for it", hint=hint)
        return self._member(address) if self._is_zip() else self._file(address)

    def _is_zip(self) -> bool:
        return self._root is not None and self._root.suffix.lower() == ".zip" and self._root.is_file()

    def _file(self, address: str) -> bytes:
        assert self._root is not None
        path = self._inside(address)
        if not is_media_path(path.relative_to(self._root)):
            hint = f"known endings: {', '.join(sorted(MEDIA_ENDINGS))}; hidden files are not read"
            raise DataError(f"{address[:80]!r} is not named as a picture, a sound, a film or a PDF", hint=hint)
        try:
            whole = path.resolve(strict=True)
            if not whole.is_relative_to(self._root.resolve()):
                raise DataError(f"{address!r} links to what is outside of the folder of media", hint=_MEND)
            size, most = whole.stat().st_size, _most_bytes(path)
            if size > most:
                hint = "make it smaller, or leave its row out"
                raise DataError(f"{address!r} has {size} bytes, more than {most}", hint=hint)
            with open_local_file(whole, address) as file:
                return file.read(most + 1)
        except FileNotFoundError as error:
            raise DataError(f"there is no file {address!r} in {self._name}", hint=_MEND) from error
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a NUL in the name
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise DataError(f"{address!r} cannot be read: {why}", hint=_MEND) from error

    def _inside(self, address: str) -> Path:
        """The path, as long as it does not climb; one from the root counts when it lies in the folder."""
        assert self._root is not None
        path = Path(address)
        if ".." in path.parts:
            raise DataError(f"{address!r} leads out of the folder of media", hint=_MEND)
        if not path.is_absolute():
            return self._root / path
        if path.is_relative_to(self._root):
            return path
        raise DataError(f"{address!r} lies outside of the folder of media", hint=_MEND)

    def _member(self, address: str) -> bytes:
        assert self._root is not None
        assert self._name is not None
        name = PurePosixPath(address)
        if ".." in name.parts or name.is_absolute():
            raise DataError(f"{address!r} leads out of the zip", hint=_MEND)
        packed = SourceFile(self._root, self._name)
        with packed.raw() as file:
            if name.as_posix() not in archives.list_data_members(file, self._name):
                raise DataError(f"there is no file {address!r} in {self._name}", hint=_MEND)
        with SourceFile(self._root, f"{self._name}/{name}", member=name.as_posix()).open() as opened:
            return opened.read(_most_bytes(name) + 1)


def _most_bytes(path: PurePath) -> int:
    """How large a file of a name may be."""
    return MAX_FILM_BYTES if path.suffix.lower() in VIDEO_ENDINGS else MAX_BYTES


def _is_base64(address: str) -> bool:
    """Whether an address is the content of a medium in base64: its beginning says which format."""
    if len(address) <= _HEAD or not _BASE64.match(address):
        return False
    return sniff_media_format(base64.b64decode(address[:_HEAD])) is not None


def _decoded(text: str) -> bytes:
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise DataError(f"the content in base64 has more than {MAX_BYTES} bytes", hint="make it smaller")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("the content is not base64", hint="write it anew, or leave the row out") from error
