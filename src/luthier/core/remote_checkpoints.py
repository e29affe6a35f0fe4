"""Checkpoints of unfinished artifacts behind the URL of a store, so that any machine continues a killed job.

    URL/work/DIGEST/00000003/seal.json     the files of the lease of number 3, and the artifacts made on the way
    URL/work/DIGEST/00000003/XXH3          one of them, by the digest of its bytes

A step names the files that count (`Step.checkpoints`); each of them is replaced whole. A thread looks for new ones,
sends them, then the seal, then removes what no seal names. It sends one state at a time, the newest, and rests for
longer than it sent. A number's folder belongs to the holder of that lease alone: one that was paused changes nothing
for the one that went on. The seal of the highest number counts.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from luthier.core.errors import CorruptArtifact, InputError
from luthier.core.files import dump_json_with_checksum, load_json_with_checksum
from luthier.core.hashing import file_digest
from luthier.core.lease import StoreUnreachable
from luthier.core.store import read_children

_SEAL = "seal.json"
LOOK_S = 2.0
"""Seconds between two looks for a new checkpoint, at least."""
_REST = 4.0
"""How much longer than it sends the thread rests."""
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """The checkpoint files of one unfinished artifact that are behind the URL."""

    number: int
    files: Mapping[str, str]
    """The digest of each by its name in the scratch folder."""
    children: Sequence[str] = ()
    """Artifacts that were made for it on the way."""


class RemoteCheckpoints:
    """The checkpoints of unfinished artifacts in a store behind a URL."""

    def __init__(self, files: Any, base: str, reach: AbstractContextManager[None]) -> None:
        self._files, self._base, self._reach = files, base, reach

    def digests(self) -> list[str]:
        """The works that have something behind the URL."""
        return self._list("")

    def read(self, digest: str) -> CheckpointManifest | None:
        """The newest whole seal of a work."""
        for number in sorted((int(name) for name in self._list(digest) if name.isdecimal()), reverse=True):
            path = self._build_path(digest, number, _SEAL)
            with suppress(CorruptArtifact, FileNotFoundError, KeyError), self._reach:
                try:
                    found = load_json_with_checksum(self._files.cat_file(path), path)
                except FileNotFoundError:
                    continue
                if all(_is_inside(name) for name in found["files"]):
                    return CheckpointManifest(number=number, files=found["files"], children=found["children"])
        return None

    def fetch(self, digest: str, scratch: Path, *, after: int) -> None:
        """Put what a later lease than that of number `after` left into the scratch folder; nothing where there is
        none, or where it is not whole."""
        for _ in range(_TRIES):  # its holder may be alive, and replace what is being read
            seal = self.read(digest)
            if seal is None or seal.number <= after or self._get(digest, seal, scratch):
                return

    def _get(self, digest: str, seal: CheckpointManifest, scratch: Path) -> bool:
        aside = scratch.with_name("fetched")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        with self._reach:
            try:
                for content in set(seal.files.values()):
                    self._files.get_file(self._build_path(digest, seal.number, content), str(aside / content))
            except FileNotFoundError:
                return False
        if any(file_digest(aside / content) != content for content in seal.files.values()):
            return False
        for name, content in seal.files.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(aside / content, aside / "whole")
            (aside / "whole").replace(scratch / name)
        shutil.rmtree(aside)
        return True

    def send(self, digest: str, seal: CheckpointManifest, paths: Mapping[str, Path], known: set[str]) -> None:
        """Send the files of a seal, then the seal; `known` are the contents that stand there already, and becomes those
        of the seal."""
        contents = {content: paths[name] for name, content in seal.files.items()}
        with self._reach:
            for content in contents.keys() - known:
                self._files.put_file(str(contents[content]), self._build_path(digest, seal.number, content))
                known.add(content)
            sealed = dump_json_with_checksum({"files": dict(seal.files), "children": list(seal.children)})
            self._files.pipe_file(self._build_path(digest, seal.number, _SEAL), sealed)
            for content in known - contents.keys():
                known.discard(content)
                with suppress(FileNotFoundError):
                    self._files.rm_file(self._build_path(digest, seal.number, content))

    def sizes(self, digest: str) -> dict[str, int]:
        """Bytes of each file of a work behind the URL, by path."""
        with self._reach:
            found = self._files.find(f"{self._base}/{digest}", detail=True)
        return {path: int(info["size"] or 0) for path, info in found.items()}

    def remove(self, digest: str, *, before: int | None = None) -> None:
        """Remove a work, seals first; or what leases of lower numbers left of it."""
        start = len(f"{self._base}/{digest}/")
        for path in sorted(self.sizes(digest), key=lambda path: not path.endswith(_SEAL)):
            if before is not None and path[start:].partition("/")[0] >= f"{before:08d}":
                continue
            with self._reach, suppress(FileNotFoundError):
                self._files.rm_file(path)

    def _list(self, digest: str) -> list[str]:
        with self._reach:
            try:
                found = self._files.ls(f"{self._base}/{digest}".rstrip("/"), detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

    def _build_path(self, digest: str, number: int, name: str) -> str:
        return f"{self._base}/{digest}/{number:08d}/{name}"


class CheckpointUploader(AbstractContextManager["CheckpointUploader"]):
    """Sends the checkpoints of a step while it is made, from a thread of its own."""

    def __init__(
        self,
        folder: RemoteCheckpoints,
        digest: str,
        number: int,
        work_dir: Path,
        patterns: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        """`work_dir` is the work's folder on this machine; `say` hears, once, why nothing can be sent."""
        self._folder, self._digest, self._number, self._work_dir = folder, digest, number, work_dir
        self._patterns, self._say = patterns, say
        self._over = threading.Event()
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._known = set[str]()
        self._said = ""
        self._thread = threading.Thread(target=self._send_until_closed, name="luthier-work", daemon=True)

    def __enter__(self) -> CheckpointUploader:
        if self._patterns:
            self._thread.start()
        return self

    def __exit__(self, kind: object, *ended: object) -> None:
        self._over.set()
        if self._patterns:
            self._thread.join()
            if kind is not None:
                self.send()  # what the step wrote when it was told to stop

    def _send_until_closed(self) -> None:
        rest = LOOK_S
        while not self._over.wait(rest):
            started = time.monotonic()
            self.send()
            rest = max(LOOK_S, _REST * (time.monotonic() - started))

    def send(self) -> None:
        """Send the files as they stand, where one is new."""
        try:
            stamps = self._read_stamps()
            if stamps and stamps != self._stamps:
                paths = self._hold_files(stamps)
                digests = {name: file_digest(path) for name, path in paths.items()}
                seal = CheckpointManifest(number=self._number, files=digests, children=read_children(self._work_dir))
                self._folder.send(self._digest, seal, paths, self._known)
                if not self._stamps:
                    self._folder.remove(self._digest, before=self._number)
                self._stamps = stamps
        except StoreUnreachable:
            return  # the next look finds them again
        except (InputError, OSError) as error:
            if str(error) != self._said:
                self._said = str(error)
                self._say(f"checkpoints cannot be sent to the store, so only this machine can go on from them: {error}")

    def _read_stamps(self) -> dict[str, tuple[int, ...]]:
        """What tells each file from the one that replaces it, those that others belong to first."""
        scratch, stamps = self._work_dir / "scratch", dict[str, tuple[int, ...]]()
        for pattern in self._patterns:
            for path in sorted(scratch.glob(pattern)):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    stamps[path.relative_to(scratch).as_posix()] = status.st_ino, status.st_size, status.st_mtime_ns
        return stamps

    def _hold_files(self, names: Iterable[str]) -> dict[str, Path]:
        """Files as they are now, whatever replaces them: by another name, or as copies where a file has only one."""
        path, paths = self._work_dir / "sent", dict[str, Path]()
        shutil.rmtree(path, ignore_errors=True)
        for name in names:
            source, link = self._work_dir / "scratch" / name, path / name
            link.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                try:
                    os.link(source, link)
                except FileNotFoundError:
                    raise
                except OSError:
                    shutil.copyfile(source, link)
                paths[name] = link
        return paths


def _is_inside(name: str) -> bool:
    """Whether a name of a seal stays in the scratch folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
