"""The bytes of pictures and sounds that requests brought: one file each, below `media` of a traffic folder.

    FOLDER/media/5f/5f….png     bytes as a data set keeps them, without metadata, under the digest that traces name

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


def write_trace_media(folder: Path, media: Media, content: bytes) -> None:
    """Keep the bytes of a medium, once; of one that is kept already, the time alone changes.

    `SystemResourceError` when the disk refuses.
    """
    path = folder / MEDIA / locate_trace_media(media)
    try:
        os.utime(path)
    except FileNotFoundError:
        write_atomically(path, content, "free some room, or name another folder in LUTHIER_TRAFFIC")


def has_trace_media(folder: Path, media: Media) -> bool:
    """Whether the bytes of a medium are kept."""
    return (folder / MEDIA / locate_trace_media(media)).is_file()


def read_trace_media(folder: Path, media: Media) -> bytes:
    """The bytes of a medium that is kept; `DataError` where they are no longer what was kept."""
    path = folder / MEDIA / locate_trace_media(media)
    content = path.read_bytes()
    if len(content) != media.size or hashlib.sha256(content).hexdigest() != media.digest:
        raise DataError(
            "holds other bytes than were kept", where=SourceLocation(file=str(path)), hint="delete the file"
        )
    return content


def list_trace_media(folder: Path, *, unfinished: bool = False) -> list[Path]:
    """All files of media; with `unfinished`, also those that a killed process left half written."""
    paths = sorted((folder / MEDIA).glob("??/*"))
    return [path for path in paths if unfinished or not path.name.startswith(".")]
