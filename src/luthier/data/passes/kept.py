"""Finished passes, kept on the disk: who takes the same rows through the same operators goes on behind the last one.

A folder holds the passes of one making: their rows, the events on the way, and what was told until then. While a data
set is made it lies in the step's scratch, where the next try finds it after a kill; afterwards among a few others, of
which the next making takes the one that has done the most of what it has to do. What is missing or damaged is made
anew. Rows in front of an operator that takes personal data out, and what was said of them, go as soon as the next pass
is done; a making that ends before that is left in the scratch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from luthier.core.digest import file_digest
from luthier.core.errors import CorruptArtifact
from luthier.core.files import seal, unseal, write_aside, writing

_TOLD = "told.json"
_MOST = 4
"""Makings that are kept."""
_MOST_BYTES = 4 << 30
"""Of all of them."""


@dataclass(frozen=True)
class Done:
    """A finished pass."""

    key: str
    """A digest of all that decides its rows and events."""
    rows: str | None
    """The digest of the file of its rows; None when they do not stay."""
    events: str
    """The digest of the file of its events."""
    told: dict[str, Any]
    """What the reader and the books knew behind it."""
    settled: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By set operator: a digest of all that decides what it says of the rows, and that of the file with it."""


class Kept:
    """The finished passes of one making, in a folder of its own."""

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        """`home` is where such folders are kept from one making to the next; None: nowhere."""
        self.folder = folder
        self._home = home
        self._done: list[Done] = []
        self._may_stay: Sequence[bool] = []
        self._is_private = False

    def __len__(self) -> int:
        return len(self._done)

    def rows(self, number: int) -> Path:
        """The file of a pass's rows."""
        return self.folder / f"pass{number}.arrow"

    def events(self, number: int) -> Path:
        """The file of a pass's events."""
        return self.folder / f"pass{number}.events.arrow"

    def settled(self, number: int, name: str) -> Path:
        """The file of what a set operator says of a pass's rows."""
        return self.folder / f"pass{number}.{name}.settled.arrow"

    def begin(
        self, keys: Sequence[str], may_stay: Sequence[bool], *, is_private: bool = False
    ) -> dict[str, Any] | None:
        """Make the folder ready for passes with these keys; `may_stay` says whose rows may be there behind the making.

        `is_private` says whether operators take out what tells of persons: then makings that took out nothing go.
        Returns what was told behind the last one that is there with its rows, after which so many are done; else None.
        """
        self._may_stay, self._is_private = may_stay, is_private
        place = max([self.folder, *self._others()], key=lambda one: len(_begun(one, keys)))
        self._done = _begun(place, keys)
        with writing(self.folder):
            if place != self.folder and self._done:
                shutil.rmtree(self.folder, ignore_errors=True)
                with suppress(OSError):  # another making was quicker, and has it now, or it may not be moved
                    place.replace(self.folder)
            if not (self._done and self._is_whole()):
                self._done = []
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear()
        if self._done:
            self._write()
        self._let_go()
        return self._done[-1].told if self._done else None

    def add(self, key: str, told: dict[str, Any]) -> None:
        """One more pass has written its files; `told` is what is known behind it, as it is now."""
        number = len(self)
        now = json.loads(json.dumps(told))
        self._done.append(Done(key, file_digest(self.rows(number)), file_digest(self.events(number)), now))
        self._write()
        self._let_go()

    def has_settled(self, number: int, name: str, key: str) -> bool:
        """Whether it stands there what a set operator says of a pass's rows."""
        known, digest = self._done[number].settled.get(name, ("", ""))
        file = self.settled(number, name)
        return known == key and file.is_file() and file_digest(file) == digest

    def add_settled(self, number: int, name: str, key: str) -> None:
        """A set operator's file is written."""
        self._done[number].settled[name] = (key, file_digest(self.settled(number, name)))
        self._write()

    def put_back(self) -> None:
        """Keep the folder for the next making, and the latest others, as far as there is room; never fails."""
        if self._home is None or not self._done or not self._may_stay[len(self) - 1]:
            return
        with suppress(OSError):  # it cannot be kept, or another making took one of the others: only time is lost
            self._clear()
            self._home.mkdir(parents=True, exist_ok=True)
            place = self._home / self._done[-1].key
            self._remove(place)
            self.folder.replace(place)
            os.utime(place / _TOLD)
            room = _MOST_BYTES
            for number, other in enumerate(sorted(self._others(), key=_age, reverse=True)):
                room -= sum(file.stat().st_size for file in other.iterdir())
                if number >= _MOST or room < 0 or (self._is_private and not _is_private(other)):
                    self._remove(other)

    def _remove(self, other: Path) -> None:
        """Take a making away and then apart, so that no other one takes it over half."""
        gone = self.folder.with_name(f"{self.folder.name}.{other.name}")
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(FileNotFoundError):
            other.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _others(self) -> list[Path]:
        with suppress(OSError):
            return sorted(place for place in self._home.iterdir() if place.is_dir()) if self._home is not None else []
        return []

    def _let_go(self) -> None:
        """Let rows go behind which another pass is done, where they may not stay or nobody has room for them."""
        room = 0 if self._home is None else _MOST_BYTES
        for number, one in reversed([*enumerate(self._done)]):
            file = self.rows(number)
            room -= file.stat().st_size if file.is_file() else 0
            if one.rows is None or number == len(self) - 1 or (self._may_stay[number] and room >= 0):
                continue
            self._done[number] = replace(one, rows=None, settled={})
            self._write()
            file.unlink(missing_ok=True)
            for name in one.settled:
                self.settled(number, name).unlink(missing_ok=True)

    def _write(self) -> None:
        told = json.dumps([asdict(one) for one in self._done])
        write_aside(self.folder / _TOLD, seal({"passes": told, "private": self._is_private}))

    def _is_whole(self) -> bool:
        """Whether what is needed of the passes is what was written."""
        digests = [(self.rows(len(self) - 1), self._done[-1].rows)]
        digests += [(self.events(number), one.events) for number, one in enumerate(self._done)]
        return all(file.is_file() and file_digest(file) == digest for file, digest in digests)

    def _clear(self) -> None:
        """Leave nothing but the files of passes that are done."""
        stay = {self.folder / _TOLD} if self._done else set()
        for number, one in enumerate(self._done):
            stay |= {self.events(number), *(self.settled(number, name) for name in one.settled)}
            stay |= {self.rows(number)} if one.rows is not None else set()
        for file in set(self.folder.iterdir()) - stay:
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def _begun(place: Path, keys: Sequence[str]) -> list[Done]:
    """The passes in a folder with these keys, up to the last one whose rows are there."""
    try:
        told = [Done(**one) for one in json.loads(unseal((place / _TOLD).read_bytes(), place)["passes"])]
    except (OSError, CorruptArtifact, KeyError, TypeError):  # the last two: as another version tells it
        return []
    same = [one for one, _ in takewhile(lambda pair: pair[0].key == pair[1], zip(told, keys, strict=False))]
    while same and same[-1].rows is None:
        same.pop()
    return same


def _is_private(place: Path) -> bool:
    """Whether a making took out what tells of persons."""
    try:
        return bool(unseal((place / _TOLD).read_bytes(), place).get("private"))
    except (OSError, CorruptArtifact):
        return False


def _age(place: Path) -> float:
    told = place / _TOLD
    return told.stat().st_mtime if told.is_file() else 0.0
