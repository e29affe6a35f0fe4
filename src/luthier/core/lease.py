"""Leases: which process makes an artifact, among all machines that use a store behind a URL.

    URL/locks/NAME/00000003    the lease of number 3: who holds it, a count of its heartbeats, or that it was given back

A number belongs to whoever creates its file first, which the places in `EXCLUSIVE` decide (`If-None-Match` on S3,
`ifGenerationMatch` on Google Cloud Storage, `overwrite=False` on Azure). The highest number holds. A waiting process
takes the next number when the holder gave its own back, when the holder is known to be over, or when its heartbeat
stood still for `lease_s` by the waiting process's own clock: clocks of machines are never compared. A holder that was
paused finds a higher number when it comes back, and publishes nothing.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from luthier.core.errors import InputError
from luthier.core.system.process import get_unique_process_name, is_process_gone

EXCLUSIVE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Protocols whose places create a file for one of several that ask at once."""
LEASE_S = 60.0
"""Seconds after which a heartbeat that stands still ends a lease."""
BEATS = 4
"""Heartbeats in the time of a lease."""
_POLL_S = 2.0
"""Seconds between two looks at the lease of another process, at most."""


PATIENCE_S = 600.0
"""Seconds for which a place that does not answer is asked again, where work that was done would be lost."""
_PAUSE_S = 2.0
"""Seconds between two tries."""

Result = TypeVar("Result")


class StoreUnreachable(InputError):
    """The place of a store does not answer now."""


class LeaseLost(InputError):
    """Another process has taken over what this one was making."""


def persist(ask: Callable[[], Result]) -> Result:
    """The result of a request, which is made again while the place does not answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except StoreUnreachable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE_S)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One number of a lease, as its file has it."""

    number: int
    owner: str = ""
    """Drawn for this lease alone; empty where the file is not whole."""
    process: str = ""
    """The holder, as `luthier.core.system.process` names it."""
    lease_s: float = LEASE_S
    beat: int = 0
    released: bool = False

    @property
    def is_free(self) -> bool:
        """Whether it was given back, or its holder, a process of this machine, is over.

        Of another machine nothing is known: that it was started anew cannot be told from a second one of its name.
        """
        machine = get_unique_process_name().split("|")[:3]
        return self.released or (self.process.split("|")[:3] == machine and is_process_gone(self.process))

    def dump(self) -> bytes:
        """What its file holds."""
        return json.dumps(vars(self)).encode()

    @classmethod
    def parse(cls, data: bytes, number: int = 0) -> Lease:
        """The lease in a file; one of the file's number without an owner where the file is torn."""
        try:
            found = json.loads(data)
            lease = cls(
                number=int(found["number"]),
                owner=str(found["owner"]),
                process=str(found["process"]),
                lease_s=float(found["lease_s"]),
                beat=int(found["beat"]),
                released=bool(found["released"]),
            )
        except (ValueError, KeyError, TypeError):
            return cls(number=number)
        return lease if not lease.process or lease.process.count("|") == 4 else cls(number=number)

    def is_same(self, other: Lease | None) -> bool:
        """Whether another is the same lease, whatever its heartbeat; a torn file is its number's owner's."""
        return other is not None and other.number == self.number and other.owner in (self.owner, "")


def list_names(files: Any, folder: str) -> list[str]:
    """The names in a folder of an fsspec file system, in order; none where there is no such folder."""
    try:
        found = files.ls(folder, detail=False)
    except FileNotFoundError:
        return []
    return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)


class LeaseFolder:
    """The leases of a store behind a URL."""

    def __init__(self, files: Any, base: str, reach: AbstractContextManager[None]) -> None:
        self._files, self._base, self._reach = files, base, reach
        self._seen: dict[str, tuple[Lease, float]] = {}
        """By name, the lease as it was last seen, and since when it stands so."""
        self._is_exclusive: bool | None = None

    def read(self, name: str) -> Lease | None:
        """The lease of the highest number; None where there is none."""
        with self._reach:
            for _ in range(3):  # a lease may be removed between the listing and the reading
                numbers = self._list_numbers(name)
                if not numbers:
                    return None
                with suppress(FileNotFoundError):
                    return Lease.parse(self._files.cat_file(self._build_path(name, numbers[-1])), numbers[-1])
        return None

    def try_take(self, name: str) -> Lease | None:
        """A lease of the next number, where nobody holds the highest one; None where somebody does."""
        lease = self.look(name)
        if lease is not None and not lease.is_free and not self._is_lapsed(name):
            return None
        number = lease.number + 1 if lease is not None else 1
        mine = Lease(
            number=number, owner=secrets.token_hex(8), process=get_unique_process_name(), lease_s=LEASE_S, beat=0
        )
        if not self._create(name, mine):
            return None
        for older in range(max(1, number - 3), number):
            self._remove(name, older)
        return mine

    def take(self, name: str) -> Lease:
        """Wait for a lease, also while the place does not answer for a while."""
        while True:
            if (lease := persist(lambda: self.try_take(name))) is not None:
                return lease
            time.sleep(min(_POLL_S, LEASE_S / 10))

    def works(self) -> bool:
        """Whether the place creates a file for one alone: it must refuse to create one again."""
        if self._is_exclusive is None:
            probe = f"{self._base}-probe-{secrets.token_hex(8)}"
            with self._reach:
                self._files.pipe_file(probe, b"1")
                try:
                    self._files.pipe_file(probe, b"2", mode="create")
                    self._is_exclusive = False
                except (OSError, TypeError) as error:
                    self._is_exclusive = is_refusal(error)
                finally:
                    self._files.rm_file(probe)
        return self._is_exclusive

    def is_busy(self, name: str) -> bool:
        """Whether somebody holds a lease: a heartbeat that stands still is watched until it moves or is over."""
        first = self.look(name)
        while (lease := self.look(name)) is not None and not lease.is_free and not self._is_lapsed(name):
            if lease != first:
                return True
            time.sleep(min(_POLL_S, lease.lease_s / 10))
        return False

    def check(self, name: str, mine: Lease) -> None:
        """`LeaseLost` where a lease is no longer the highest."""
        if not mine.is_same(self.read(name)):
            message = "another machine took over what was made here, since this one was silent; nothing was published"
            raise LeaseLost(message, hint="run it again: it waits for the other one and takes what that makes")

    def beat(self, name: str, mine: Lease) -> None:
        """Write a heartbeat."""
        with self._reach:
            self._files.pipe_file(self._build_path(name, mine.number), mine.dump())

    def release(self, name: str, mine: Lease, *, forget: bool) -> None:
        """Give a lease back, or remove all of its name where nothing can follow on it."""
        if not mine.is_same(self.read(name)):
            return
        if not forget:
            self.beat(name, replace(mine, released=True))
            return
        self.remove(name)

    def names(self) -> list[str]:
        """The names that have a lease, held or given back."""
        with self._reach:
            return list_names(self._files, self._base)

    def remove(self, name: str) -> None:
        """Remove all leases of a name."""
        with self._reach:
            for number in self._list_numbers(name):
                self._remove(name, number)

    def look(self, name: str) -> Lease | None:
        """The highest lease; remembers since when it stands as it does."""
        try:
            lease = self.read(name)
        except StoreUnreachable:
            self._seen.pop(name, None)  # the holder could not beat either
            raise
        if lease is None:
            self._seen.pop(name, None)
        elif name not in self._seen or self._seen[name][0] != lease:
            self._seen[name] = lease, time.monotonic()
        return lease

    def _is_lapsed(self, name: str) -> bool:
        lease, since = self._seen[name]
        return time.monotonic() - since >= lease.lease_s

    def _create(self, name: str, mine: Lease) -> bool:
        """Whether the number is ours; a request that was sent again may be refused for what it did the first time."""
        with self._reach:
            try:
                self._files.pipe_file(self._build_path(name, mine.number), mine.dump(), mode="create")
            except OSError as error:
                if not is_refusal(error):
                    raise
        lease = self.read(name)
        return mine.is_same(lease) and lease is not None and bool(lease.owner)

    def _list_numbers(self, name: str) -> list[int]:
        try:
            found = self._files.ls(f"{self._base}/{name}", detail=False)
        except FileNotFoundError:
            return []
        words = [str(path).rsplit("/", 1)[-1] for path in found]
        return sorted(int(word) for word in words if word.isdecimal())

    def _remove(self, name: str, number: int) -> None:
        with self._reach, suppress(FileNotFoundError):
            self._files.rm_file(self._build_path(name, number))

    def _build_path(self, name: str, number: int) -> str:
        return f"{self._base}/{name}/{number:08d}"


class Heartbeat(AbstractContextManager["Heartbeat"]):
    """Beats for a lease from a thread of its own until it ends, or until the lease is lost."""

    def __init__(self, folder: LeaseFolder, name: str, lease: Lease) -> None:
        self._folder, self._name, self._lease = folder, name, lease
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_closed, name="luthier-lease", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat_until_closed(self) -> None:
        lease = self._lease
        while not self._over.wait(lease.lease_s / BEATS):
            with suppress(InputError):  # a lease that cannot be renewed is over in time
                if not lease.is_same(self._folder.read(self._name)):
                    return
                lease = replace(lease, beat=lease.beat + 1)
                self._folder.beat(self._name, lease)


def is_refusal(error: Exception) -> bool:
    """Whether a place says that the file is there already, also where its client knows no word for that."""
    return isinstance(error, FileExistsError) or (isinstance(error, OSError) and "recondition" in str(error))
