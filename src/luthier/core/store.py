"""The artifact store: content-addressed folders, locked between processes.

    ROOT/artifacts/DIGEST/     finished artifacts: what is here is whole
    ROOT/work/DIGEST/          one being made: `folder` becomes the artifact, `scratch` stays after a kill, `children`
                               names the artifacts that were made for it on the way
    ROOT/locks/DIGEST.lock     held by the process that makes it
    ROOT/tasks/DIGEST/         what the job that makes an artifact says (see `luthier.recipe.batch`)
    ROOT/kept/                 answers and passes that steps find again, until rubbish is collected
    ROOT/timings.json          kind and time of each artifact, so that the newest of a kind is found without opening all
    ROOT/ledger.db             the ledger, when it is SQLite (see `luthier.core.db`)

`luthier.core.remote_store` keeps the same `artifacts/` behind a URL, and opens a store by its place.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from luthier.core.artifact import (
    MANIFEST,
    TIMING,
    Artifact,
    Manifest,
    list_files,
    read_json_with_checksum,
    read_manifest,
)
from luthier.core.errors import CorruptArtifact, InputError, SourceLocation, SystemResourceError, UnknownName
from luthier.core.files import dump_json_with_checksum, sync, sync_tree, translate_write_errors, write_atomically

_REMOVED = ".removed"
_CHILDREN = "children"
_TIMINGS = "timings.json"
ABANDONED_S = 24 * 3600
"""What nobody wrote to for so long is nobody's any more."""
OLD_S = 30 * 24 * 3600
"""After so long, what an unfinished job said is of no use."""


Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """One artifact as the store lists it."""

    digest: str
    kind: str
    """Kind of the step that made it; empty when its manifest is damaged."""
    makes: str
    bytes: int
    finished_at: float
    """Seconds since 1970; 0 when it is not known."""


@dataclass(frozen=True, kw_only=True)
class GarbageCollectionResult:
    """What a collection removed, or would remove."""

    artifacts: tuple[str, ...]
    works: tuple[str, ...]
    """Digests of unfinished artifacts whose work folder (checkpoints included) nobody needs."""
    tasks: tuple[str, ...] = ()
    """Digests of artifacts whose jobs are done, or that nobody needs, and what these jobs said."""
    bytes: int


class Store:
    """Finished artifacts by digest, and the places where new ones are made."""

    def __init__(self, root: Path, *, shared: Store | None = None) -> None:
        self.root = root
        self.shared = shared
        """Another store in which artifacts are also looked for (base models of this user)."""

    @property
    def location(self) -> str:
        """What a person calls this store: its folder or its URL."""
        return str(self.root)

    @property
    def artifacts(self) -> Path:
        """The folder of finished artifacts on this machine."""
        return self.root / "artifacts"

    @property
    def work(self) -> Path:
        """The folder of artifacts that are being made."""
        return self.root / "work"

    @property
    def kept(self) -> Path:
        """The folder of what steps find again from run to run, until rubbish is collected."""
        return self.root / "kept"

    def has(self, digest: str) -> bool:
        """Whether the artifact is finished, here or in the shared store."""
        return self._here(digest) or (self.shared is not None and self.shared.has(digest))

    def find_made(self, digests: Iterable[str]) -> set[str]:
        """Those of some artifacts that are finished, as `has`; behind a URL many are asked for at once."""
        return {digest for digest in digests if self.has(digest)}

    def _here(self, digest: str) -> bool:
        return self._local(digest)

    def _local(self, digest: str) -> bool:
        return _is_name(digest) and (self.artifacts / digest / MANIFEST).is_file()

    def open(self, digest: str) -> Artifact:
        """A finished artifact by its whole digest; its files are not read (see `Artifact.check`)."""
        if self._local(digest):
            folder = self.artifacts / digest
            return Artifact(folder, read_manifest(folder), self.open)
        if self.shared is not None and self.shared.has(digest):
            return self.shared.open(digest)
        raise UnknownName(f"no artifact {digest} in {self.location}", hint="`luthier store list` shows what there is")

    def read_file(self, name: str) -> bytes:
        """A file beside the artifacts, as the machines that use the store see it; nothing where there is none."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return b""

    def send_file(self, name: str) -> None:
        """Let the other machines that use the store read a file beside the artifacts, as it is now."""

    def remove_file(self, name: str) -> None:
        """Remove a file beside the artifacts; nothing where there is none."""
        (self.root / name).unlink(missing_ok=True)

    def find(self, beginning: str) -> Artifact:
        """A finished artifact by the beginning of its digest (at least six digits), when only one has it."""
        known = {*self.digests(), *(self.shared.digests() if self.shared else ())}
        found = [digest for digest in known if len(beginning) >= 6 and digest.startswith(beginning)]
        if len(found) != 1:
            what = "no artifact has" if not found else f"{len(found)} artifacts have"
            message = f"{what} a digest beginning with {beginning!r}"
            raise UnknownName(message, where=SourceLocation(file=self.location), hint="`luthier store list` shows them")
        return self.open(found[0])

    def digests(self) -> list[str]:
        """Digests of all finished artifacts of this store, without the shared one's, sorted."""
        return sorted(path.parent.name for path in self.artifacts.glob(f"*/{MANIFEST}"))

    def manifest(self, digest: str) -> Manifest:
        """The manifest of one of this store's own artifacts."""
        return read_manifest(self.artifacts / digest)

    def timing(self, digest: str) -> dict[str, Any]:
        """Times and machine of the making of one of this store's own artifacts."""
        return read_json_with_checksum(self.artifacts / digest / TIMING)

    def read_newest_timings(self) -> dict[str, dict[str, Any]]:
        """The timing of the newest of this store's artifacts of each kind of step, with its `settings`.

        The index of kinds and times is read; what it does not have is opened and added. A spoilt one is made anew.
        """
        before, index = self._read_timing_index(), dict[str, list[Any]]()
        for digest in self.digests():
            stamp = self._stamp(digest)
            known = before.get(digest)
            index[digest] = known if known is not None and known[0] == stamp else [stamp]
        new = [digest for digest, entry in index.items() if len(entry) == 1]
        for digest, entry in zip(new, self._map(self._read_kind_and_time, new), strict=True):
            index[digest] += entry
        if index != before:
            with suppress(SystemResourceError):  # without it the next reading opens them again
                write_atomically(self.root / _TIMINGS, json.dumps(index).encode())
        newest: dict[str, tuple[float, str]] = {}
        for digest, (_, kind, finished_at) in index.items():
            newest[kind] = max(newest.get(kind, (-1.0, "")), (finished_at, digest))
        return {
            kind: {**self.timing(digest), "settings": self.manifest(digest).settings}
            for kind, (_, digest) in newest.items()
        }

    def _read_kind_and_time(self, digest: str) -> tuple[str, float]:
        return self.manifest(digest).kind, float(self.timing(digest).get("finished_at", 0))

    def _map(self, ask: Callable[[str], Answer], digests: Sequence[str]) -> list[Answer]:
        """What is answered for each of some artifacts."""
        return [ask(digest) for digest in digests]

    def _read_timing_index(self) -> dict[str, list[Any]]:
        """For each digest the stamp of its manifest, kind and time; only what has that form."""
        try:
            found = json.loads((self.root / _TIMINGS).read_bytes())
        except (OSError, ValueError):
            return {}
        entries = found.items() if isinstance(found, dict) else ()
        return {digest: entry for digest, entry in entries if _is_timing_entry(entry)}

    def _stamp(self, digest: str) -> int:
        """What tells an artifact from one that was made again under its name: its manifest's time."""
        return (self.artifacts / digest / MANIFEST).stat().st_mtime_ns

    @contextmanager
    def lock(self, digest: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the right to make an artifact; yields False (at once, when not to wait) if another process holds it.

        The kernel drops the lock when its holder dies. The lock's file stays: to unlink it would let two in.
        """
        from filelock import FileLock, Timeout

        path = self.root / "locks" / f"{digest}.lock"
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            with translate_write_errors(path):
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
        work_dir = self.work / digest
        folder, scratch = work_dir / "folder", work_dir / "scratch"
        with translate_write_errors(work_dir):
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
        return folder, scratch

    def send_work(
        self, digest: str, patterns: Sequence[str], say: Callable[[str], None]
    ) -> AbstractContextManager[object]:
        """While an artifact is made, let other machines go on from the files in its scratch folder that `patterns`
        name; `say` hears why they cannot."""
        return nullcontext()

    def record_child(self, digest: str, child: str) -> None:
        """Note that an artifact was made for one that is being made: it stays until that is finished."""
        if child in read_children(self.work / digest):
            return
        path = self.work / digest / _CHILDREN
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{child}\n")

    def _children(self, digest: str) -> list[str]:
        return read_children(self.work / digest) if _is_name(digest) else []

    def finish(self, manifest: Manifest, timing: dict[str, Any]) -> Artifact:
        """Turn the work folder into a finished artifact: digests, manifest last, rename."""
        work_dir = self.work / manifest.digest
        folder = work_dir / "folder"
        whole = manifest.model_copy(update={"files": list_files(folder)})
        with translate_write_errors(folder):
            sync_tree(folder)
        write_atomically(
            folder / TIMING, dump_json_with_checksum({**timing, "host": platform.node(), "finished_at": time.time()})
        )
        write_atomically(folder / MANIFEST, dump_json_with_checksum(whole.model_dump(mode="json")))
        with translate_write_errors(self.artifacts):
            self._settle(folder, manifest.digest)
            shutil.rmtree(work_dir, ignore_errors=True)
        return Artifact(self.artifacts / manifest.digest, whole, self.open)

    def _settle(self, folder: Path, digest: str) -> None:
        """Rename a whole folder to its place among the artifacts; what stood there (damaged) goes."""
        self.artifacts.mkdir(parents=True, exist_ok=True)
        target = self.artifacts / digest
        if target.exists():
            self._discard(target)
        folder.replace(target)
        sync(self.artifacts)

    def _discard(self, folder: Path) -> None:
        """Make a folder vanish at once, however long the deletion takes: what a kill leaves stands in `work/`."""
        aside = self.work / f"{folder.name}{_REMOVED}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists():
            shutil.rmtree(aside)
        folder.replace(aside)
        shutil.rmtree(aside)

    def verify(self) -> list[str]:
        """Every fault of every artifact, as sentences that begin with the file; empty when all are whole."""
        faults: list[str] = []
        for folder in sorted(path for path in self.artifacts.glob("*") if path.is_dir()):
            faults += self._faults(folder)
        return faults

    def _faults(self, folder: Path) -> list[str]:
        try:
            manifest = read_manifest(folder)
        except CorruptArtifact as error:
            return [f"{error.where}: {error.message}"]
        wrong = [] if manifest.digest == folder.name else [f"{folder}: its manifest is of {manifest.digest}"]
        return wrong + Artifact(folder, manifest, self.open).faults()

    def remove(self, digest: str) -> int:
        """Remove an artifact and its work; returns the bytes freed. The caller holds its lock."""
        freed = 0
        for path in (self.artifacts / digest, self.work / digest):
            if _is_name(digest) and path.is_dir():
                freed += _bytes_below(path)
                with translate_write_errors(path):
                    self._discard(path)
        return freed

    def usage(self) -> list[StoredArtifact]:
        """This store's own artifacts, the latest first."""
        stored_artifacts = [self._holding(digest) for digest in self.digests()]
        return sorted(stored_artifacts, key=lambda holding: (-holding.finished_at, holding.digest))

    def _holding(self, digest: str) -> StoredArtifact:
        try:
            manifest, timing = self.manifest(digest), self.timing(digest)
        except CorruptArtifact:
            return StoredArtifact(digest=digest, kind="", makes="", bytes=0, finished_at=0)
        size = sum(entry.size for entry in manifest.files)
        at = float(timing.get("finished_at", 0))
        return StoredArtifact(digest=digest, kind=manifest.kind, makes=manifest.makes, bytes=size, finished_at=at)

    def lineage(self, digests: Iterable[str]) -> set[str]:
        """The artifacts named, and all that they were made from, as far as this store itself has them."""
        known, reached, ahead = set(self.digests()), set[str](), list(digests)
        while ahead:
            digest = ahead.pop()
            if digest in reached or digest not in known:
                continue
            reached.add(digest)
            ahead += self.manifest(digest).inputs.values()
        return reached

    def gc(self, keep: Iterable[str] | None, *, dry_run: bool = False) -> GarbageCollectionResult:
        """Remove artifacts that are neither in `keep` nor ancestors of one that is, work that nobody goes on with, and
        what jobs said that are done or old.

        `keep` may name unfinished artifacts too: their checkpoints stay, and what was made for them on the way; when
        an artifact is finished, nothing needs its children. None: nobody knows what is needed; no artifact is removed,
        and of works only those whose artifact stands. Raises `InputError` while a run makes something in this store,
        since what that run reads is not known here.
        """
        roots = _with_children(keep or (), self._children)
        self._refuse_while_busy()
        waste = [] if keep is None else sorted((set(self.digests()) - self.lineage(roots)) | set(self.list_abandoned()))
        is_needed = (lambda name: not self._here(name)) if keep is None else roots.__contains__
        works = [name for name in self._works() if not is_needed(name)]
        tasks = [name for name, at in self._tasks().items() if self._is_over(at, needed=is_needed(name), name=name)]
        freed = sum(self._size(digest) for digest in waste) + sum(self._work_size(name) for name in works)
        freed += sum(self._task_size(name) for name in tasks) + (_bytes_below(self.kept) if keep is not None else 0)
        if not dry_run:
            if keep is not None:
                shutil.rmtree(self.kept, ignore_errors=True)
            for remove, names in ((self._remove_work, works), (self._remove_task, tasks), (self.remove, waste)):
                for name in names:
                    with self.lock(name.removesuffix(_REMOVED), wait=False) as held:
                        if held:
                            remove(name)
        return GarbageCollectionResult(artifacts=tuple(waste), works=tuple(works), tasks=tuple(tasks), bytes=freed)

    def _is_over(self, at: float, *, needed: bool, name: str) -> bool:
        """Whether what a job said, last at a time, is of no use: it is done, nobody needs it, or it is very old."""
        age = time.time() - at
        return age > OLD_S or (age > ABANDONED_S and (not needed or self._here(name)))

    def list_abandoned(self) -> list[str]:
        """Folders among the artifacts that have no manifest, so that nothing can use them."""
        return sorted(path.name for path in self.artifacts.glob("*") if not (path / MANIFEST).is_file())

    def _size(self, digest: str) -> int:
        return _bytes_below(self.artifacts / digest)

    def _works(self) -> list[str]:
        return sorted(path.name for path in self.work.glob("*"))

    def _work_size(self, name: str) -> int:
        return _bytes_below(self.work / name)

    def _remove_work(self, name: str) -> None:
        shutil.rmtree(self.work / name, ignore_errors=True)

    def _tasks(self) -> dict[str, float]:
        """The jobs that said something, and when last."""
        return {path.name: _latest_below(path) for path in sorted((self.root / "tasks").glob("*"))}

    def _task_size(self, name: str) -> int:
        return _bytes_below(self.root / "tasks" / name)

    def _remove_task(self, name: str) -> None:
        shutil.rmtree(self.root / "tasks" / name, ignore_errors=True)

    def _refuse_while_busy(self) -> None:
        for path in sorted(self.work.glob("*")):
            with self.lock(path.name.removesuffix(_REMOVED), wait=False) as held:
                if not held:
                    raise self._busy(path.name)

    def _busy(self, name: str) -> InputError:
        what = f"another run is making {name[:12]} in {self.location}"
        return InputError(what, hint="wait until it is done, then collect")


def _with_children(digests: Iterable[str], children_of: Callable[[str], Iterable[str]]) -> set[str]:
    """Some digests, the children recorded for them, and theirs."""
    found, ahead = set[str](), list(digests)
    while ahead:
        digest = ahead.pop()
        if digest not in found:
            found.add(digest)
            ahead += children_of(digest)
    return found


def _is_timing_entry(entry: Any) -> bool:
    """Whether it is `[stamp, kind, finished_at]`."""
    return isinstance(entry, list) and [type(item) for item in entry] == [int, str, float]


def _is_name(digest: str) -> bool:
    """Whether a digest is one folder's name, so that nothing asked for lies outside the store."""
    return bool(digest) and Path(digest).name == digest


def read_children(work_dir: Path) -> list[str]:
    """The artifacts that were made on the way of one that is being made in a folder."""
    path = work_dir / _CHILDREN
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _latest_below(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
