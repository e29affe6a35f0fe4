"""Writing files so that a kill, a full disk or a flipped byte never leaves something that looks whole.

`write_aside` puts bytes under a temporary name, flushes them to the disk and renames. `seal` and `unseal` keep small
JSON documents together with a digest of themselves.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import xxhash

from luthier.core.errors import CorruptArtifact, LuthierError, Unwritable, Where

STORE_ELSEWHERE = "set LUTHIER_STORE to a folder on another disk"
_Refusal = tuple[str, str]
_FULL: _Refusal = (
    "the disk is full",
    "free some space (`luthier store gc`), or {elsewhere}",
)
_FORBIDDEN: _Refusal = (
    "cannot be written (read-only or not yours)",
    "give yourself the right to write there, or {elsewhere}",
)
_NO_MEMORY: _Refusal = ("the machine has no memory left", "make batches smaller, or close other programs")
_NOT_A_FOLDER: _Refusal = ("is in the way, or lies below something that is not a folder", "move it away")
_REFUSALS: dict[int, _Refusal] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: ("the file is larger than this machine allows", "raise the limit (`ulimit -f`)"),
    errno.EROFS: _FORBIDDEN,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.ENOMEM: _NO_MEMORY,
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.EEXIST: _NOT_A_FOLDER,
    errno.EIO: ("the disk answers with an error", "look at the system's log; the disk may be failing"),
}
_OUT_OF_MEMORY = re.compile(r"OutOfMemory|out of memory|[Cc]an(?:no|')t allocate memory")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how libraries written in Rust (safetensors, polars) report errno


def writing(place: Path | str, elsewhere: str = STORE_ELSEWHERE) -> AbstractContextManager[None]:
    """Turn the machine's refusals (disk full, read-only, no memory) into one clear `Unwritable`; `elsewhere`, how the
    same is written to another place.

    What torch, safetensors, polars and other compiled libraries raise for the same reasons is understood too, so that
    a step's whole work may stand inside.
    """
    return _Writing(place, elsewhere)


class _Writing(AbstractContextManager[None]):
    """Looks at whatever escapes; a class, because the errors of compiled libraries share no base to catch."""

    def __init__(self, place: Path | str, elsewhere: str) -> None:
        self._place, self._elsewhere = place, elsewhere

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, LuthierError):
            return
        if (refusal := _refusal(error)) is not None:
            remedy = refusal[1].format(elsewhere=self._elsewhere)
            raise Unwritable(refusal[0], where=Where(file=str(self._place)), remedy=remedy) from error


def _refusal(error: BaseException) -> _Refusal | None:
    if isinstance(error, OSError) and error.errno is not None:
        return _REFUSALS.get(error.errno)
    if told := _OS_ERROR.search(str(error)):
        return _REFUSALS.get(int(told.group(1)))
    return _NO_MEMORY if lacks_memory(error) else None


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says, in Python's words or torch's, that memory is exhausted."""
    told = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}")
    return isinstance(error, MemoryError) or bool(told)


def write_aside(path: Path, data: bytes, elsewhere: str = STORE_ELSEWHERE) -> None:
    """Write a whole file or nothing: aside, flushed, then renamed; `elsewhere` as for `writing`."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with writing(path, elsewhere):
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
        sync(path)


def sync(path: Path) -> None:
    """Flush one file, or the list of a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_bytes(value: Any) -> bytes:
    """Plain data as the JSON files of artifacts hold it: keys sorted, the same bytes every time."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def seal(value: dict[str, Any]) -> bytes:
    """A JSON document with a digest of itself under `seal`."""
    return json_bytes({**value, "seal": xxhash.xxh3_128_hexdigest(json_bytes(value))})


def unseal(data: bytes, place: Path | str) -> dict[str, Any]:
    """Read a sealed document; `CorruptArtifact` when any byte of it differs from what was sealed."""
    broken = CorruptArtifact(
        "differs from what was written",
        where=Where(file=str(place)),
        remedy="`luthier store verify` lists all such files",
    )
    try:
        value = json.loads(data)
        content = {key: item for key, item in value.items() if key != "seal"} if isinstance(value, dict) else {}
        whole = seal(content) == data  # inside: a flipped byte may also make a number or a letter that JSON cannot say
    except (ValueError, RecursionError) as error:
        raise broken from error
    if not whole:
        raise broken
    return content
