"""Atomic writes, paths of recipes and environment variables.

`write_atomically` writes bytes under a temporary name, flushes them to the disk and renames the file, so that a kill
or a full disk leaves no partial file. `dump_json_with_checksum` and `load_json_with_checksum` store a small JSON
document together with its digest and so detect a flipped byte.

A path in a recipe is relative to the recipe, or begins with `~` or with `$NAME` from the environment. Only a field
marked with `EnvVarMarker()` accepts `$NAME`. The recipe keeps the value as written, so an artifact never contains the
value of a variable. An artifact's digest depends on the contents of a file, not on its path.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import xxhash

from luthier.core.errors import (
    CorruptArtifact,
    InputError,
    LuthierError,
    OutOfMemory,
    SourceLocation,
    SystemResourceError,
)

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


def translate_write_errors(path: Path | str, elsewhere: str = STORE_ELSEWHERE) -> AbstractContextManager[None]:
    """Turn the machine's refusals (disk full, read-only, no memory) into one clear `SystemResourceError`; `elsewhere`,
    how the same is written to another place.

    What torch, safetensors, polars and other compiled libraries raise for the same reasons is understood too, so that
    a step's whole work may stand inside.
    """
    return _Writing(path, elsewhere)


class _Writing(AbstractContextManager[None]):
    """Looks at whatever escapes; a class, because the errors of compiled libraries share no base to catch."""

    def __init__(self, path: Path | str, elsewhere: str) -> None:
        self._place, self._elsewhere = path, elsewhere

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, LuthierError):
            return
        if (refusal := _refusal(error)) is not None:
            hint = refusal[1].format(elsewhere=self._elsewhere)
            kind_of_error = OutOfMemory if refusal is _NO_MEMORY else SystemResourceError
            raise kind_of_error(refusal[0], where=SourceLocation(file=str(self._place)), hint=hint) from error


def _refusal(error: BaseException) -> _Refusal | None:
    if isinstance(error, OSError) and error.errno is not None:
        return _REFUSALS.get(error.errno)
    if match := _OS_ERROR.search(str(error)):
        return _REFUSALS.get(int(match.group(1)))
    return _NO_MEMORY if lacks_memory(error) else None


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says, in Python's words or torch's, that memory is exhausted."""
    match = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}")
    return isinstance(error, MemoryError) or bool(match)


def write_atomically(path: Path, data: bytes, elsewhere: str = STORE_ELSEWHERE) -> None:
    """Write a whole file or nothing: aside, flushed, then renamed; `elsewhere` as for `translate_write_errors`."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with translate_write_errors(path, elsewhere):
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


def dump_json_with_checksum(value: dict[str, Any]) -> bytes:
    """Serialize a JSON document with a digest of its contents in the member `seal`."""
    return json_bytes({**value, "seal": xxhash.xxh3_128_hexdigest(json_bytes(value))})


def load_json_with_checksum(data: bytes, path: Path | str) -> dict[str, Any]:
    """Parse a JSON document and verify its digest; `CorruptArtifact` when any byte differs."""
    broken = CorruptArtifact(
        "differs from what was written",
        where=SourceLocation(file=str(path)),
        hint="`luthier store verify` lists all such files",
    )
    try:
        value = json.loads(data)
        content = {key: item for key, item in value.items() if key != "seal"} if isinstance(value, dict) else {}
        whole = (
            dump_json_with_checksum(content) == data
        )  # inside: a flipped byte may also make a number or a letter that JSON cannot say
    except (ValueError, RecursionError) as error:
        raise broken from error
    if not whole:
        raise broken
    return content


_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")


@dataclass(frozen=True)
class EnvVarMarker:
    """Marks a field in which `$NAME` stands for an environment variable."""


class _NonEmpty:
    """What pydantic's `Field(min_length=1)` says, without loading pydantic for whoever only writes files."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(source), "min_length": 1}


PathText = Annotated[str, _NonEmpty(), EnvVarMarker()]
"""A path; a relative one starts at the recipe's folder, and `~` and `$NAME` are understood."""


def resolve_path(path: str, recipe_dir: Path) -> Path:
    """Where a written path lies; `InputError` names a variable that is not set."""
    return recipe_dir / Path(expand_env_vars(path)).expanduser()


def expand_env_vars(text: str) -> str:
    """A text with each `$NAME` replaced by what the environment says; `InputError` names a variable that is not set."""
    return _VARIABLE.sub(_value, text)


def find_env_vars(text: str) -> list[str]:
    """The names of the variables that a text asks for."""
    return [found[1] or found[2] for found in _VARIABLE.finditer(text)]


def is_env_var(text: str) -> bool:
    """Whether a text is nothing but `$NAME`."""
    return _VARIABLE.fullmatch(text) is not None


def _value(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    value = os.environ.get(name)
    if value is None:
        message = f"the environment has no variable {name}"
        raise InputError(
            message, where=SourceLocation(field=found[0]), hint=f"export {name}=… first, or write the path out"
        )
    return value


def cache_folder() -> Path:
    """Where this user's fetched packages and converted base models are kept: `LUTHIER_CACHE`, or `~/.cache/luthier`."""
    if named := os.environ.get("LUTHIER_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luthier"
