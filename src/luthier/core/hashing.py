"""Digests: what something is made of (SHA-256 of canonical JSON), and what a file holds (XXH3-128)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import xxhash

from luthier.core.errors import DataError, SourceLocation

_CHUNK = 1 << 20
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8, no NaN."""
    return _ENCODER.encode(value)


def digest_of(value: Any) -> str:
    """32 hexadecimal digits that name a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """XXH3-128 of a file's bytes; `DataError` when it cannot be read."""
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                state.update(chunk)
    except OSError as error:
        hint = "give yourself the right to read it, and check the disk"
        raise DataError(f"cannot be read: {error.strerror}", where=SourceLocation(file=str(path)), hint=hint) from error
    return state.hexdigest()


def files_digest(paths: Iterable[Path], recipe_dir: Path) -> str:
    """One digest of several files: their names below `recipe_dir` and their contents."""
    return digest_of(sorted((path.relative_to(recipe_dir).as_posix(), file_digest(path)) for path in paths))


@cache
def digest_package_code(*packages: str) -> str:
    """A digest of the files of some packages (sources, templates, tables): changed code finds no stale cache."""
    parts: list[tuple[str, str]] = []
    for package in packages:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            files = (path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
            parts.append((package, files_digest(files, Path(folder))))
    return digest_of(parts)
