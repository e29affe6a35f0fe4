"""An artifact: an immutable folder of files, named by the digest of what made it, with its manifest written last.

What differs by nature between two makings of the same thing (times, host, memory) stands apart in `timing.json`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from luthier.core.component import Component
from luthier.core.errors import CorruptArtifact, DataError, SourceLocation, UnknownName, did_you_mean
from luthier.core.files import load_json_with_checksum
from luthier.core.former_names import FORMER_FILES
from luthier.core.hashing import file_digest

MANIFEST = "manifest.json"
TIMING = "timing.json"
MAKE_ANEW = "delete the artifact's folder and run again; it will be made anew"


class FileEntry(BaseModel):
    """One file of an artifact: its path below the folder, its bytes' count and XXH3-128 digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    size: int
    digest: str


class Manifest(BaseModel):
    """What an artifact is, what made it, and a digest of each of its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1] = 1
    digest: str
    """Digest of the recipe of this artifact: step settings, code, inputs, contents read, seed."""
    kind: str
    """The kind of the step that made it."""
    makes: str
    """What it is: `dataset`, `model`, `evaluation`, `verdict`, …"""
    settings: dict[str, Any]
    inputs: dict[str, str]
    """Digests of the artifacts that it was made from, by the step's field."""
    reads: dict[str, str]
    """Digests of contents read from outside, by the part that read them."""
    code: str
    seed: int
    files: list[FileEntry]


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on this machine."""

    folder: Path
    manifest: Manifest
    find: Callable[[str], Artifact]
    """Finds another artifact by digest: the way up the lineage."""

    @property
    def digest(self) -> str:
        """The artifact's name."""
        return self.manifest.digest

    def path(self, name: str) -> Path:
        """One file of the artifact by its name; `UnknownName` when it has none of that name."""
        if not any(entry.path == name or entry.path.startswith(f"{name}/") for entry in self.manifest.files):
            names = [entry.path for entry in self.manifest.files]
            former = next((item for item in names if FORMER_FILES.get(item) == name), None)
            older = f"an earlier version made it and called that {former!r}: run its recipe again"
            hint = older if former is not None else did_you_mean(name, names)
            raise UnknownName(f"artifact {self.digest[:12]} holds no {name!r}", hint=hint)
        return self.folder / name

    def read_json(self, name: str) -> Any:
        """One of its JSON files, read."""
        return json.loads(self.path(name).read_text(encoding="utf-8"))

    def parent(self, field: str) -> Artifact:
        """The artifact that was given to this one's step in `field`."""
        return self.find(self.manifest.inputs[field])

    def timing(self) -> dict[str, Any]:
        """Times and machine of its making; `CorruptArtifact` when they are missing or changed."""
        return read_json_with_checksum(self.folder / TIMING)

    def faults(self) -> list[str]:
        """Every way in which the files differ from the manifest, as sentences; empty when whole."""
        found = [fault for entry in self.manifest.files if (fault := self._find_fault(entry))]
        known = {entry.path for entry in self.manifest.files} | {MANIFEST, TIMING}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if not path.is_dir() and name not in known:
                found.append(f"{path}: is not in the manifest")
        try:
            self.timing()
        except CorruptArtifact as error:
            found.append(f"{error.where}: {error.message}")
        return found

    def _find_fault(self, entry: FileEntry) -> str | None:
        path = self.folder / entry.path
        if not path.is_file():
            return f"{path}: is missing"
        if path.stat().st_size != entry.size:
            return f"{path}: has {path.stat().st_size} bytes, not {entry.size}"
        try:
            same = file_digest(path) == entry.digest
        except DataError as error:
            return f"{path}: {error.message.replace(': ', ' - ')}"
        return None if same else f"{path}: its bytes differ from what was made"

    def check(self) -> Artifact:
        """Return itself when every file is as it was made; `CorruptArtifact` names the first that is not."""
        for entry in self.manifest.files:
            if fault := self._find_fault(entry):
                path, _, what = fault.rpartition(": ")
                raise CorruptArtifact(what, where=SourceLocation(file=path), hint=MAKE_ANEW)
        self.timing()
        return self


def list_files(folder: Path) -> list[FileEntry]:
    """Entries for every file below a folder, sorted by path; its own manifest and timing are not among them."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [
        FileEntry(path=name, size=(folder / name).stat().st_size, digest=file_digest(folder / name))
        for name in names
        if name not in (MANIFEST, TIMING)
    ]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact's folder; `CorruptArtifact` when it is missing or was changed."""
    path = folder / MANIFEST
    return _load_manifest(_read_bytes(path), str(path))


@lru_cache(maxsize=1024)
def _load_manifest(data: bytes, path: str) -> Manifest:
    """The manifest that some bytes are; a run opens the same artifacts a hundred times."""
    return parse_manifest(load_json_with_checksum(data, path), path)


def read_json_with_checksum(path: Path) -> dict[str, Any]:
    """Read a JSON document from a file and verify its digest; `CorruptArtifact` when it is missing, unreadable or
    changed."""
    return load_json_with_checksum(_read_bytes(path), path)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise CorruptArtifact(what, where=SourceLocation(file=str(path)), hint=MAKE_ANEW) from error


def parse_manifest(value: dict[str, Any], path: Path | str) -> Manifest:
    """A whole sealed document as a manifest; `CorruptArtifact` when another version of Luthier wrote it."""
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        what = f"is a manifest of format {value.get('format')}, which this version of Luthier does not read"
        raise CorruptArtifact(what, where=SourceLocation(file=str(path)), hint=MAKE_ANEW) from error


class ArtifactType(Component):
    """A type of artifact, by which a step says what it makes (`Step.makes`) and what it reads (`Reads`)."""

    role: ClassVar[str] = "artifact type"
    home: ClassVar[str] = "luthier.recipe.artifact_types"

    @abstractmethod
    def describe(self, artifact: Artifact) -> dict[str, Any]:
        """What `luthier show` prints of one, by name."""
