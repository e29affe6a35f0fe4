"""A store behind any fsspec URL, for a team, and the one door that opens a store by its place.

    URL/artifacts/DIGEST/…      the same files as in a local store; `manifest.json` is sent last
    URL/tasks/DIGEST/…          what the job that makes an artifact says (see `luthier.recipe.batch`)
    URL/work/DIGEST/…           checkpoints of an artifact that is being made (see `luthier.core.remote_checkpoints`)
    URL/files/XXH3              files that recipes name and that jobs elsewhere read (see `luthier.recipe.task_files`)
    URL/locks/DIGEST/…          who makes an artifact now (see `luthier.core.lease`)

An artifact is made in a local folder and then sent: its files, `timing.json`, `manifest.json`. Without a manifest
nothing is seen, so an interrupted sending leaves nothing that counts, and the next one removes it. What is opened is
fetched aside, checked against its manifest, and renamed. A lock holds between processes of one machine by the kernel,
and between machines by a lease. Each file is created, never overwritten, and right before the manifest the lease is
read once more: who lost it publishes nothing. At a place that cannot create files exclusively, locks hold between
processes of one machine; two machines that make the same artifact at once send the same bytes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash

from luthier.core.artifact import MANIFEST, TIMING, Artifact, FileEntry, Manifest, parse_manifest
from luthier.core.errors import CorruptArtifact, InputError, LuthierError, MissingExtra, SourceLocation, UnknownName
from luthier.core.files import (
    cache_folder,
    load_json_with_checksum,
    sync_tree,
    translate_write_errors,
    write_atomically,
)
from luthier.core.hashing import file_digest
from luthier.core.lease import (
    EXCLUSIVE,
    PATIENCE_S,
    Heartbeat,
    Lease,
    LeaseFolder,
    LeaseLost,
    StoreUnreachable,
    is_refusal,
    list_names,
    persist,
)
from luthier.core.remote_checkpoints import CheckpointUploader, RemoteCheckpoints
from luthier.core.store import ABANDONED_S, OLD_S, Answer, GarbageCollectionResult, Store

_BUCKETED = {"s3", "s3a", "gs", "gcs", "az", "abfs", "oci"}
_PAUSE_S = 2.0
"""Seconds between two tries to send an artifact."""
_CHUNK = 1 << 20
_AT_ONCE = 32
"""Requests that wait for their answers side by side."""
_AGAIN = "remove it (`luthier store gc` once nothing needs it, or by hand) and run again; it will be made anew"
_CREDENTIALS = "give credentials the usual way (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"


def open_store(location: Path | str, *, shared: Store | None = None) -> Store:
    """The store at a local path or at any fsspec URL (`s3://bucket/prefix`, `memory://name`, `file:///folder`)."""
    if is_remote(str(location)):
        return RemoteStore(str(location), shared=shared)
    return Store(find_store_root(str(location)), shared=shared)


def is_remote(location: str) -> bool:
    """Whether a store is at a URL that is no folder here."""
    protocol, mark, _ = location.partition("://")
    return bool(mark) and protocol not in ("file", "local")


def find_store_root(location: str) -> Path:
    """The folder of a store on this machine, which of one at a URL holds its copies; nothing is opened."""
    if is_remote(location):
        name = hashlib.sha256(_without_user(location).encode()).hexdigest()[:32]
        return cache_folder() / "stores" / name
    _, mark, rest = location.partition("://")
    return Path(rest) if mark else Path(location).expanduser()


def _without_user(url: str) -> str:
    """A URL without a user's name and password."""
    return re.sub(r"//[^/@]*@", "//", url).rstrip("/")


class RemoteStore(Store):
    """A store whose finished artifacts stand behind a URL; this machine keeps copies of those it used."""

    def __init__(self, url: str, *, shared: Store | None = None) -> None:
        self._shown = _without_user(url)
        super().__init__(find_store_root(url), shared=shared)
        self._reach = RemoteErrorTranslator(self._shown)
        self._files, self._base = self._connect(url)
        self._leases = LeaseFolder(self._files, self._beside("locks"), self._reach)
        self._works_behind = RemoteCheckpoints(self._files, self._beside("work"), self._reach)
        self._may_lease = url.partition("://")[0] in EXCLUSIVE
        self._held = dict[str, Lease]()
        """The lease under which each artifact was begun here."""

    def _connect(self, url: str) -> tuple[Any, str]:
        with self._reach:
            from fsspec import url_to_fs

            files, base = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
            if url.partition("://")[0] in _BUCKETED:
                _check_access(files, base)
            return files, f"{base.rstrip('/')}/artifacts"

    @property
    def location(self) -> str:
        """The URL, without a user's name and password."""
        return self._shown

    def _at(self, digest: str, name: str = "") -> str:
        return f"{self._base}/{digest}/{name}" if name else f"{self._base}/{digest}"

    def _named(self, digest: str, name: str) -> str:
        return f"{self._shown}/artifacts/{digest}/{name}"

    def _here(self, digest: str) -> bool:
        with self._reach:
            return "/" not in digest and bool(self._files.exists(self._at(digest, MANIFEST)))

    def find_made(self, digests: Iterable[str]) -> set[str]:
        """Those of some artifacts that are finished, as `has`, many asked for at once.

        To list the store instead would take one request for each thousand of all its files, which is more than that of
        a recipe's steps in a store that a team fills.
        """
        requested = list(dict.fromkeys(digests))
        shared = self.shared.find_made(requested) if self.shared is not None else set()
        return shared | self._with_manifest([digest for digest in requested if digest not in shared])

    def open(self, digest: str) -> Artifact:
        """A finished artifact by its whole digest, fetched to this machine when it isn't here yet."""
        if not self._local(digest) and self._here(digest):
            with super().lock(f"{digest}.fetch"):
                if not self._local(digest):
                    persist(lambda: self._fetch(digest))
        return super().open(digest)

    def read_file(self, name: str) -> bytes:
        """A file beside the artifacts behind the URL, as it was last sent; nothing where there is none."""
        with self._reach:
            try:
                return bytes(self._files.cat_file(self._beside(name)))
            except FileNotFoundError:
                return b""

    def send_file(self, name: str) -> None:
        """Send a file beside the artifacts as it is now."""
        with self._reach:
            self._files.pipe_file(self._beside(name), (self.root / name).read_bytes())

    def remove_file(self, name: str) -> None:
        """Remove a file beside the artifacts, here and behind the URL; nothing where there is none."""
        super().remove_file(name)
        with self._reach:
            if self._files.exists(self._beside(name)):
                self._files.rm_file(self._beside(name))

    def _beside(self, name: str) -> str:
        return f"{self._base.removesuffix('/artifacts')}/{name}"

    def send_content(self, path: Path, content: str) -> None:
        """Send a file under the digest of its bytes, where it is not there already."""
        with self._reach:
            if not self._files.exists(self._beside(f"files/{content}")):
                self._files.put_file(str(path), self._beside(f"files/{content}"))

    def fetch_content(self, content: str, path: Path) -> None:
        """Fetch a file by the digest of its bytes; `CorruptArtifact` where it is missing or differs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.fetched")
        where = SourceLocation(file=f"{self._shown}/files/{content}")
        with translate_write_errors(aside), self._reach:
            try:
                self._files.get_file(self._beside(f"files/{content}"), str(aside))
            except FileNotFoundError as error:
                raise CorruptArtifact("is missing", where=where, hint="run it again: it is sent anew") from error
        if file_digest(aside) != content:
            raise CorruptArtifact("its bytes differ from what was sent", where=where, hint="remove it and run again")
        aside.replace(path)

    def _fetch(self, digest: str) -> None:
        aside = self.work / f"{digest}.fetch"
        manifest, raw = self._sealed_manifest(digest)
        with translate_write_errors(aside):
            if aside.exists():
                shutil.rmtree(aside)
            for entry in manifest.files:
                (aside / entry.path).parent.mkdir(parents=True, exist_ok=True)
            aside.mkdir(parents=True, exist_ok=True)
            with self._reach:
                names = [entry.path for entry in manifest.files]
                self._files.get([self._at(digest, name) for name in names], [str(aside / name) for name in names])
        for entry in manifest.files:
            self._check(digest, entry, aside)
        write_atomically(aside / TIMING, self._sealed(digest, TIMING)[1])
        with translate_write_errors(aside):
            sync_tree(aside)
        write_atomically(aside / MANIFEST, raw)
        with translate_write_errors(self.artifacts):
            self._settle(aside, digest)

    def _check(self, digest: str, entry: FileEntry, aside: Path) -> None:
        path = aside / entry.path
        if not path.is_file() or path.stat().st_size != entry.size or file_digest(path) != entry.digest:
            location = SourceLocation(file=self._named(digest, entry.path))
            raise CorruptArtifact("its bytes differ from what was made", where=location, hint=_AGAIN)

    def _sealed(self, digest: str, name: str) -> tuple[dict[str, Any], bytes]:
        path = self._named(digest, name)
        with self._reach:
            try:
                data: bytes = self._files.cat_file(self._at(digest, name))
            except FileNotFoundError as error:
                raise CorruptArtifact("is missing", where=SourceLocation(file=path), hint=_AGAIN) from error
        return load_json_with_checksum(data, path), data

    def _sealed_manifest(self, digest: str) -> tuple[Manifest, bytes]:
        value, data = self._sealed(digest, MANIFEST)
        return parse_manifest(value, self._named(digest, MANIFEST)), data

    def manifest(self, digest: str) -> Manifest:
        """The manifest of one of this store's own artifacts, read from behind the URL."""
        return self._sealed_manifest(digest)[0]

    def timing(self, digest: str) -> dict[str, Any]:
        """Times and machine of the making of one of this store's own artifacts."""
        return self._sealed(digest, TIMING)[0]

    def _stamp(self, digest: str) -> int:
        """Nothing: to ask for each file's time costs as much as to read it."""
        return 0

    def digests(self) -> list[str]:
        """Digests of all finished artifacts behind the URL, sorted."""
        return sorted(self._with_manifest(self._folders()))

    def _with_manifest(self, digests: Sequence[str]) -> set[str]:
        return {digest for digest, is_here in zip(digests, self._map(self._here, digests), strict=True) if is_here}

    def _map(self, ask: Callable[[str], Answer], digests: Sequence[str]) -> list[Answer]:
        """What is answered for each of some artifacts, many asked for at once."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(ask, digests))

    def _folders(self) -> list[str]:
        with self._reach:
            return list_names(self._files, self._base)

    @contextmanager
    def lock(self, digest: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the right to make an artifact, on this machine and then behind the URL; as `Store.lock`."""
        with super().lock(digest, wait=wait) as held:
            if not held or not self._may_lease or not persist(self._leases.works):
                yield held
                return
            lease = self._leases.take(digest) if wait else self._leases.try_take(digest)
            if lease is None:
                yield False
                return
            write_atomically(self._lease_note(digest), lease.dump())
            try:
                with Heartbeat(self._leases, digest, lease):
                    self._send_unsent(digest, lease)
                    yield True
            finally:
                self._lease_note(digest).unlink(missing_ok=True)
                with suppress(StoreUnreachable):  # it is over in time
                    self._leases.release(digest, lease, forget=self._here(digest))

    def _send_unsent(self, digest: str, lease: Lease) -> None:
        """Publish an artifact that was made here when the place did not answer for long; a damaged one goes."""
        if self._local(digest) and not self._here(digest):
            artifact = super().open(digest)
            if artifact.faults():
                super().remove(digest)
            else:
                self._publish(artifact, lease)

    def _lease_note(self, digest: str) -> Path:
        """Where this machine's processes see the lease that one of them holds: a step's own process makes under it."""
        return self.root / "locks" / f"{digest}.lease"

    def begin(self, digest: str) -> tuple[Path, Path]:
        """Prepare the place to make an artifact, under the lease that this machine holds; what another machine left
        since this one made it last is fetched into the scratch folder."""
        note = self._lease_note(digest)
        self._held.pop(digest, None)
        if note.is_file():
            self._held[digest] = Lease.parse(note.read_bytes())
        folder, scratch = super().begin(digest)
        last = scratch.with_name("number")
        after = int(last.read_text(encoding="ascii")) if last.is_file() else -1
        persist(lambda: self._works_behind.fetch(digest, scratch, after=after))
        write_atomically(last, str(self._number(digest)).encode())
        return folder, scratch

    def _number(self, digest: str) -> int:
        """The number of the lease under which an artifact was begun here; 0 without one."""
        return self._held[digest].number if digest in self._held else 0

    def send_work(
        self, digest: str, patterns: Sequence[str], say: Callable[[str], None]
    ) -> AbstractContextManager[object]:
        """Send the checkpoints of an artifact that is being made as they come."""
        return CheckpointUploader(self._works_behind, digest, self._number(digest), self.work / digest, patterns, say)

    def _children(self, digest: str) -> list[str]:
        seal = self._works_behind.read(digest)
        return [*super()._children(digest), *(seal.children if seal else ())]

    def finish(self, manifest: Manifest, timing: dict[str, Any]) -> Artifact:
        """Turn the work folder into a finished artifact on this machine, then send it, its manifest last.

        Where another process has published it meanwhile, that artifact is taken; where one has taken over and is not
        done, `LeaseLost`.
        """
        lease = self._held.pop(manifest.digest, None)
        artifact = self._publish(super().finish(manifest, timing), lease)
        with suppress(StoreUnreachable):  # a collection of rubbish finds it
            self._works_behind.remove(artifact.digest)
        return artifact

    def _publish(self, artifact: Artifact, lease: Lease | None) -> Artifact:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if lease is None:
                    self._overwrite(artifact)
                elif self._here(artifact.digest) or not self._send(artifact, lease):
                    return self._take_other(artifact)
                return artifact
            except StoreUnreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE_S)
            except LeaseLost:
                super().remove(artifact.digest)
                if self._here(artifact.digest):
                    return self.open(artifact.digest)
                raise

    def send_artifact(self, artifact: Artifact) -> None:
        """Send an artifact of another store of this machine, such as a base model, unless it stands there already."""
        with self.lock(artifact.digest):
            if not self._here(artifact.digest):
                note = self._lease_note(artifact.digest)
                lease = Lease.parse(note.read_bytes()) if note.is_file() else None
                persist(lambda: self._overwrite(artifact) if lease is None else self._send(artifact, lease))

    def _overwrite(self, artifact: Artifact) -> None:
        """Send an artifact to a place where two may send it at once."""
        with self._reach:
            self._put(artifact, mode="overwrite")
            for name in self._sizes(artifact.digest).keys() - _names_of(artifact) - {MANIFEST, TIMING}:
                self._files.rm_file(self._at(artifact.digest, name))
            self._files.pipe_file(self._at(artifact.digest, MANIFEST), (artifact.folder / MANIFEST).read_bytes())

    def _send(self, artifact: Artifact, lease: Lease) -> bool:
        """Send an artifact under a lease; returns False where another one was published first.

        Files are created anew: one that comes late, from a holder that was paused, is refused.
        """
        digest = artifact.digest
        self._leases.check(digest, lease)
        for name in self._sizes(digest).keys() - {MANIFEST}:
            with self._reach, suppress(FileNotFoundError):
                self._files.rm_file(self._at(digest, name))
        with self._reach:
            try:
                self._put(artifact, mode="create")
            except OSError as error:
                if is_refusal(error):
                    raise StoreUnreachable("another process sends the same files now") from error
                raise
        self._leases.check(digest, lease)
        with self._reach:
            try:
                sealed = (artifact.folder / MANIFEST).read_bytes()
                self._files.pipe_file(self._at(digest, MANIFEST), sealed, mode="create")
            except OSError as error:
                if is_refusal(error):
                    return self._sealed(digest, MANIFEST)[1] == sealed
                raise
        return True

    def _put(self, artifact: Artifact, mode: str) -> None:
        """Send all but the manifest."""
        names = sorted(_names_of(artifact))
        if names:
            local = [str(artifact.folder / name) for name in names]
            self._files.put(local, [self._at(artifact.digest, name) for name in names], mode=mode)
        timing = (artifact.folder / TIMING).read_bytes()
        self._files.pipe_file(self._at(artifact.digest, TIMING), timing, mode=mode)

    def _take_other(self, artifact: Artifact) -> Artifact:
        """The published artifact in place of the one that was made here."""
        if self._sealed(artifact.digest, MANIFEST)[1] != (artifact.folder / MANIFEST).read_bytes():
            super().remove(artifact.digest)
        return self.open(artifact.digest)

    def _sizes(self, digest: str) -> dict[str, int]:
        """Bytes of every file behind the URL below an artifact's folder, by name."""
        with self._reach:
            found = self._files.find(self._at(digest), detail=True)
        start = len(self._at(digest)) + 1
        return {path[start:]: int(info["size"] or 0) for path, info in found.items()}

    def verify(self) -> list[str]:
        """Every fault of every artifact behind the URL, and of the copies on this machine."""
        faults: list[str] = []
        for digest in self.digests():
            faults += self._remote_faults(digest)
        return faults + super().verify()

    def _remote_faults(self, digest: str) -> list[str]:
        try:
            manifest = self.manifest(digest)
        except CorruptArtifact as error:
            return [f"{error.where}: {error.message}"]
        faults = [] if manifest.digest == digest else [f"{self._named(digest, '')}: its manifest is of another"]
        sizes = self._sizes(digest)
        for entry in manifest.files:
            what = self._remote_fault(digest, entry, sizes.get(entry.path))
            faults += [f"{self._named(digest, entry.path)}: {what}"] if what else []
        for name in sorted(sizes.keys() - {entry.path for entry in manifest.files} - {MANIFEST, TIMING}):
            faults.append(f"{self._named(digest, name)}: is not in the manifest")
        try:
            self.timing(digest)
        except CorruptArtifact as error:
            faults.append(f"{error.where}: {error.message}")
        return faults

    def _remote_fault(self, digest: str, entry: FileEntry, size: int | None) -> str | None:
        if size is None:
            return "is missing"
        if size != entry.size:
            return f"has {size} bytes, not {entry.size}"
        state = xxhash.xxh3_128()
        with self._reach, self._files.open(self._at(digest, entry.path), "rb") as file:
            while chunk := file.read(_CHUNK):
                state.update(chunk)
        return None if state.hexdigest() == entry.digest else "its bytes differ from what was made"

    def remove(self, digest: str) -> int:
        """Remove an artifact here and behind the URL, its manifest first; returns the bytes freed behind the URL."""
        super().remove(digest)
        sizes = self._sizes(digest)
        with self._reach:
            if MANIFEST in sizes:
                self._files.rm_file(self._at(digest, MANIFEST))
            for name in sizes.keys() - {MANIFEST}:
                self._files.rm_file(self._at(digest, name))
        return sum(sizes.values())

    def _size(self, digest: str) -> int:
        return sum(self._sizes(digest).values())

    def list_abandoned(self) -> list[str]:
        """Digests of sendings that were broken off more than a day ago: files without a manifest."""
        before, folders = time.time() - ABANDONED_S, self._folders()
        made = self._with_manifest(folders)
        return [digest for digest in folders if digest not in made and self._latest(digest) < before]

    def gc(self, keep: Iterable[str] | None, *, dry_run: bool = False) -> GarbageCollectionResult:
        """As `Store.gc`, here and behind the URL; leases that are over and old files of recipes go, too."""
        collection_result = super().gc(keep, dry_run=dry_run)
        before = time.time() - OLD_S
        old = [path for path, info in self._find("files").items() if _to_timestamp(_time_of(info)) < before]
        for path in [] if dry_run else old:
            with self._reach, suppress(FileNotFoundError):
                self._files.rm_file(path)
        for name in [] if dry_run else self._leases.names():
            if not self._leases.is_busy(name):
                self._leases.remove(name)
        return collection_result

    def _works(self) -> list[str]:
        return sorted({*super()._works(), *self._works_behind.digests()})

    def _work_size(self, name: str) -> int:
        return super()._work_size(name) + sum(self._works_behind.sizes(name).values())

    def _remove_work(self, name: str) -> None:
        super()._remove_work(name)
        self._works_behind.remove(name)

    def _tasks(self) -> dict[str, float]:
        found = super()._tasks()
        start = len(self._beside("tasks")) + 1
        for path, info in self._find("tasks").items():
            name = path[start:].partition("/")[0]
            found[name] = max(found.get(name, 0.0), _to_timestamp(_time_of(info)))
        return found

    def _task_size(self, name: str) -> int:
        behind = sum(int(info["size"] or 0) for info in self._find(f"tasks/{name}").values())
        return super()._task_size(name) + behind

    def _remove_task(self, name: str) -> None:
        super()._remove_task(name)
        for path in self._find(f"tasks/{name}"):
            with self._reach, suppress(FileNotFoundError):
                self._files.rm_file(path)

    def _find(self, location: str) -> dict[str, dict[str, Any]]:
        """All files below a place beside the artifacts, by path."""
        with self._reach:
            return dict(self._files.find(self._beside(location), detail=True))

    def _refuse_while_busy(self) -> None:
        """`InputError` while a process of any machine makes something in this store."""
        for path in sorted(self.work.glob("*")):
            with super().lock(path.name.partition(".")[0], wait=False) as held:
                if not held:
                    raise self._busy(path.name)
        names = self._leases.names()
        for name in names:  # all are watched at once
            self._leases.look(name)
        for name in names:
            if self._leases.is_busy(name):
                raise self._busy(name)

    def _latest(self, digest: str) -> float:
        with self._reach:
            found = self._files.find(self._at(digest), detail=True).values()
        return max((_to_timestamp(_time_of(info)) for info in found), default=0.0)


def _names_of(artifact: Artifact) -> set[str]:
    return {entry.path for entry in artifact.manifest.files}


def _check_access(files: Any, base: str) -> None:
    """Raise what stands between us and the bucket (credentials, network, its absence) before any work is done."""
    try:
        files.ls(base)
    except FileNotFoundError:
        if not files.exists(base.split("/", 1)[0]):
            raise


def _time_of(info: dict[str, Any]) -> Any:
    return info.get("LastModified") or info.get("created") or info.get("mtime")


def _to_timestamp(moment: Any) -> float:
    """Seconds since 1970 of what a file system calls a time; now, when it says nothing."""
    if moment is None:
        return time.time()
    return float(moment.timestamp()) if hasattr(moment, "timestamp") else float(moment)


class RemoteErrorTranslator(AbstractContextManager[None]):
    """Turns what a remote file system raises into one clear error; a class, since these errors share no base."""

    def __init__(self, url: str) -> None:
        self._place = url

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, LuthierError):
            raise _explain(error, self._place) from error


def _explain(error: Exception, url: str) -> LuthierError:
    where = SourceLocation(file=url)
    protocol = url.partition("://")[0]
    if isinstance(error, ImportError):
        extra = "s3" if protocol in ("s3", "s3a") else None
        hint = "pip install 'luthier[s3]'" if extra else f"install what fsspec needs for it: {error}"
        return MissingExtra(f"nothing installed can reach {protocol}:// places", where=where, hint=hint)
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return InputError(f"{protocol!r} is no kind of place", where=where, hint="use a folder, or s3://bucket/prefix")
    if "Credential" in type(error).__name__:
        return InputError("no credentials were found for this place", where=where, hint=_CREDENTIALS)
    if isinstance(error, PermissionError):
        return InputError("this place refuses the credentials given", where=where, hint=_CREDENTIALS)
    if isinstance(error, FileNotFoundError):
        return UnknownName("there is no such bucket or folder", where=where, hint="make it, or check the spelling")
    hint = "check the network and the address (AWS_ENDPOINT_URL for an S3 server of your own), then run again"
    return StoreUnreachable(f"cannot be reached ({type(error).__name__})", where=where, hint=hint)
