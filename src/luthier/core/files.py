"""Writing files so that a kill, a full disk or a flipped byte never leaves something that looks whole.

`write_aside` puts bytes under a temporary name, flushes them to the disk and renames. `seal` and `unseal` keep small
JSON documents together with a digest of themselves.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from luthier.core.errors import CorruptArtifact, Unwritable, Where

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """Turn the machine's refusals (disk full, read-only, no memory) into one clear `Unwritable`."""
    where = Where(file=str(place))
    try:
        yield
    except MemoryError as error:
        raise Unwritable("the machine has no memory left", where=where, remedy="make batches smaller") from error
    except OSError as error:
        if error.errno in _FULL:
            remedy = "free some space (`luthier store gc`), or set LUTHIER_STORE to another disk"
            raise Unwritable("the disk is full", where=where, remedy=remedy) from error
        if error.errno in _FORBIDDEN:
            remedy = "give yourself the right to write there, or set LUTHIER_STORE to another folder"
            raise Unwritable("cannot be written (read-only or not yours)", where=where, remedy=remedy) from error
        raise


def write_aside(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: aside, flushed, then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Flush every file of a folder, and the folder itself, to the disk."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _pretty(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def seal(value: dict[str, Any]) -> bytes:
    """A JSON document with a digest of itself under `seal`."""
    return _pretty({**value, "seal": xxhash.xxh3_128_hexdigest(_pretty(value))})


def unseal(data: bytes, place: Path | str) -> dict[str, Any]:
    """Read a sealed document; `CorruptArtifact` when any byte of it differs from what was sealed."""
    broken = CorruptArtifact(
        "differs from what was written",
        where=Where(file=str(place)),
        remedy="`luthier store verify` lists all such files",
    )
    try:
        value = json.loads(data)
    except ValueError as error:
        raise broken from error
    if not isinstance(value, dict):
        raise broken
    content = {key: item for key, item in value.items() if key != "seal"}
    if seal(content) != data:
        raise broken
    return content
