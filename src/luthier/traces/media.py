"""The bytes of pictures and sounds that requests brought: one file each, below `media` of a traffic folder.

    FOLDER/media/5f/5f….png         bytes as a data set keeps them, without metadata, under the digest that traces name
    FOLDER/media/5f/5f….9a….png     bytes from which something was taken out, under both digests: theirs is the second

A file's time is that of the last request that brought it, so that retention removes it with that request's day.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from luthier.chat.messages import Media
from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import write_atomically

MEDIA = "media"


def locate_trace_media(media: Media) -> str:
    """Where the bytes of a medium are kept, from `FOLDER/media` on."""
    return f"{media.digest[:2]}/{media.digest}.{media.format}"


def touch_trace_media(folder: Path, media: Media) -> bool:
    """Whether the bytes of a medium are kept already; if so, they are as new as this request."""
    path = _find(folder, media)
    if path is None:
        return False
    try:
        os.utime(path)
    except FileNotFoundError:  # its day was over at this moment
        return False
    return True


def write_trace_media(folder: Path, media: Media, content: bytes, form: str | None = None) -> None:
    """Keep the bytes of a medium; `form` is their format, where something was taken out of them.

    `SystemResourceError` when the disk refuses.
    """
    name = locate_trace_media(media)
    if form is not None:
        name = f"{media.digest[:2]}/{media.digest}.{hashlib.sha256(content).hexdigest()}.{form}"
    write_atomically(folder / MEDIA / name, content, "free some room, or name another folder in LUTHIER_TRAFFIC")


def has_trace_media(folder: Path, media: Media) -> bool:
    """Whether the bytes of a medium are kept."""
    return _find(folder, media) is not None


def read_trace_media(folder: Path, media: Media) -> bytes:
    """The bytes of a medium that is kept; `DataError` where they are gone, or no longer what was kept."""
    path = _find(folder, media)
    if path is None:
        where = SourceLocation(file=str(folder / MEDIA / locate_trace_media(media)))
        raise DataError("is not kept any more", where=where, hint="read the traffic again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.name.split(".")[-2]:
        raise DataError(
            "holds other bytes than were kept", where=SourceLocation(file=str(path)), hint="delete the file"
        )
    return content


def list_trace_media(folder: Path, *, unfinished: bool = False) -> list[Path]:
    """All files of media; with `unfinished`, also those that a killed process left half written."""
    paths = sorted((folder / MEDIA).glob("??/*"))
    return [path for path in paths if unfinished or not path.name.startswith(".")]


def _find(folder: Path, media: Media) -> Path | None:
    path = folder / MEDIA / locate_trace_media(media)
    return path if path.is_file() else next(iter(sorted(path.parent.glob(f"{media.digest}.*.*"))), None)
