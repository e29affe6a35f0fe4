"""The artifact store: content-addressed folders, locked between processes, local or behind any fsspec URL.

    ROOT/artifacts/DIGEST/     finished artifacts: what is here is whole
    ROOT/work/DIGEST/          one being made: `folder` becomes the artifact, `scratch` survives a kill
    ROOT/locks/DIGEST.lock     held by the process that makes it

A remote store keeps the same `artifacts/` behind a URL and works through a local folder: an artifact is made locally
and sent with its manifest last, so that what can be seen is whole; two machines that make the same artifact at once
write the same bytes.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from luthier.core.artifact import MANIFEST, TIMING, Artifact, Manifest, list_files, read_manifest
from luthier.core.errors import CorruptArtifact, UnknownName
from luthier.core.files import seal, sync_tree, write_aside, writing


class Store:
    """Finished artifacts by digest, and the places where new ones are made."""

    def __init__(self, root: Path, *, shared: Store | None = None) -> None:
        self.root = root
        self.shared = shared
        """Another store in which artifacts are also looked for (base models of this user)."""

    @property
    def artifacts(self) -> Path:
        """The folder of finished artifacts."""
        return self.root / "artifacts"

    def has(self, digest: str) -> bool:
        """Whether the artifact is finished, here or in the shared store."""
        return self._here(digest) or (self.shared is not None and self.shared.has(digest))

    def _here(self, digest: str) -> bool:
        return (self.artifacts / digest / MANIFEST).is_file()

    def open(self, digest: str) -> Artifact:
        """A finished artifact by its whole digest; its files are not read (see `Artifact.check`)."""
        if self._here(digest):
            folder = self.artifacts / digest
            return Artifact(folder, read_manifest(folder), self.open)
        if self.shared is not None and self.shared.has(digest):
            return self.shared.open(digest)
        raise UnknownName(f"no artifact {digest} in {self.root}", remedy="`luthier store list` shows what there is")

    def find(self, beginning: str) -> Artifact:
        """A finished artifact by the beginning of its digest (at least six digits), when only one has it."""
        found = [digest for digest in self.digests() if len(beginning) >= 6 and digest.startswith(beginning)]
        if len(found) != 1:
            what = "no artifact has" if not found else f"{len(found)} artifacts have"
            raise UnknownName(f"{what} a digest beginning with {beginning!r}", remedy="`luthier store list` shows them")
        return self.open(found[0])

    def digests(self) -> list[str]:
        """Digests of all finished artifacts of this store, without the shared one's, sorted."""
        return sorted(path.parent.name for path in self.artifacts.glob(f"*/{MANIFEST}"))

    @contextmanager
    def lock(self, digest: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the right to make an artifact; yields False (at once, when not to wait) if another process holds it."""
        path = self.root / "locks" / f"{digest}.lock"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            with writing(path):
                lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def begin(self, digest: str) -> tuple[Path, Path]:
        """Prepare the place to make an artifact: an empty folder, and the scratch that an earlier try may have left."""
        place = self.root / "work" / digest
        folder, scratch = place / "folder", place / "scratch"
        with writing(place):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
        return folder, scratch

    def finish(self, manifest: Manifest, timing: dict[str, Any]) -> Artifact:
        """Turn the work folder into a finished artifact: digests, manifest last, rename."""
        place = self.root / "work" / manifest.digest
        folder = place / "folder"
        whole = manifest.model_copy(update={"files": list_files(folder)})
        write_aside(folder / TIMING, seal({**timing, "host": platform.node(), "finished_at": time.time()}))
        with writing(folder):
            sync_tree(folder)
        write_aside(folder / MANIFEST, seal(whole.model_dump(mode="json")))
        with writing(self.artifacts):
            self.artifacts.mkdir(parents=True, exist_ok=True)
            folder.replace(self.artifacts / manifest.digest)
            shutil.rmtree(place, ignore_errors=True)
        return self.open(manifest.digest)

    def verify(self) -> list[str]:
        """Every fault of every artifact, as sentences that begin with the file; empty when all are whole."""
        faults: list[str] = []
        for folder in sorted(path for path in self.artifacts.glob("*") if path.is_dir()):
            faults += self._faults(folder)
        return faults

    def _faults(self, folder: Path) -> list[str]:
        if not (folder / MANIFEST).is_file():
            return [f"{folder / MANIFEST}: is missing"]
        try:
            manifest = read_manifest(folder)
        except CorruptArtifact as error:
            return [f"{error.where}: {error.message}"]
        wrong = [] if manifest.digest == folder.name else [f"{folder}: its manifest is of {manifest.digest}"]
        return wrong + Artifact(folder, manifest, self.open).faults()

    def remove(self, digest: str) -> int:
        """Remove an artifact, its work and its lock; returns the bytes freed."""
        freed = 0
        for place in (self.artifacts / digest, self.root / "work" / digest):
            if place.is_dir():
                freed += sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
                aside = place.with_name(f".{digest}.removed")
                with writing(place):
                    place.replace(aside)
                    shutil.rmtree(aside)
        (self.root / "locks" / f"{digest}.lock").unlink(missing_ok=True)
        return freed
