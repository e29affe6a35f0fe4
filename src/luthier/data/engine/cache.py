"""Cache the passes of a data set on disk, so that a run continues after the last pass with the same rows and operators.

A folder holds the passes of one run: rows, events and messages. During a run it lies in the step's scratch folder,
where a retry after a kill finds it. Afterwards it is one of a few folders, and the next run takes the one that saves
the most work. A missing or damaged pass is computed again.

Rows from before an operator that removes personal data, and their messages, are deleted when the next pass is done; a
run that is killed before that leaves them in the scratch folder.

The module also makes a data set from another one by rewriting or dropping rows; the counts of rows in and out stay
balanced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from luthier.artifacts.dataset import DatasetSummary, list_splits
from luthier.core.artifact import Artifact
from luthier.core.errors import CorruptArtifact
from luthier.core.files import (
    dump_json_with_checksum,
    load_json_with_checksum,
    translate_write_errors,
    write_atomically,
)
from luthier.core.hashing import file_digest
from luthier.core.step import StepContext
from luthier.data.augment.rows import read_split_batches, rows_to_example_batch
from luthier.data.engine.batch import drop_event, opening_text_of, redact_openings
from luthier.data.engine.tables import (
    EventWriter,
    RowEvent,
    TableWriter,
    batch_from_arrow,
    example_schema,
    number_examples,
)
from luthier.data.operator import Drop
from luthier.data.row import Row

_TOLD = "told.json"
_MOST = 4
"""Makings that are kept."""
_MOST_BYTES = 4 << 30
"""Of all of them."""


@dataclass(frozen=True)
class FinishedPass:
    """A finished pass."""

    key: str
    """A digest of all that decides its rows and events."""
    rows: str | None
    """The digest of the file of its rows; None when they do not stay."""
    events: str
    """The digest of the file of its events."""
    state: dict[str, Any]
    """What the reader and the books knew behind it."""
    settled: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By set operator: a digest of all that decides what it says of the rows, and that of the file with it."""


class PassCache:
    """On-disk cache of finished passes, from which an interrupted `prepare` continues."""

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        """`home` is where such folders are kept from one making to the next; None: nowhere."""
        self.folder = folder
        self._home = home
        self._done: list[FinishedPass] = []
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
        folder = max([self.folder, *self._others()], key=lambda other: len(_begun(other, keys)))
        self._done = _begun(folder, keys)
        with translate_write_errors(self.folder):
            if folder != self.folder and self._done:
                shutil.rmtree(self.folder, ignore_errors=True)
                with suppress(OSError):  # another making was quicker, and has it now, or it may not be moved
                    folder.replace(self.folder)
            if not (self._done and self._is_whole()):
                self._done = []
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear()
        if self._done:
            self._write()
        self._let_go()
        return self._done[-1].state if self._done else None

    def add(self, key: str, state: dict[str, Any]) -> None:
        """One more pass has written its files; `told` is what is known behind it, as it is now."""
        number = len(self)
        now = json.loads(json.dumps(state))
        self._done.append(FinishedPass(key, file_digest(self.rows(number)), file_digest(self.events(number)), now))
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
            folder = self._home / self._done[-1].key
            self._remove(folder)
            self.folder.replace(folder)
            os.utime(folder / _TOLD)
            free_bytes = _MOST_BYTES
            for number, other in enumerate(sorted(self._others(), key=_age, reverse=True)):
                free_bytes -= sum(file.stat().st_size for file in other.iterdir())
                if number >= _MOST or free_bytes < 0 or (self._is_private and not _is_private(other)):
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
            return (
                sorted(folder for folder in self._home.iterdir() if folder.is_dir()) if self._home is not None else []
            )
        return []

    def _let_go(self) -> None:
        """Let rows go behind which another pass is done, where they may not stay or nobody has room for them."""
        free_bytes = 0 if self._home is None else _MOST_BYTES
        for number, finished_pass in reversed([*enumerate(self._done)]):
            file = self.rows(number)
            free_bytes -= file.stat().st_size if file.is_file() else 0
            if finished_pass.rows is None or number == len(self) - 1 or (self._may_stay[number] and free_bytes >= 0):
                continue
            self._done[number] = replace(finished_pass, rows=None, settled={})
            self._write()
            file.unlink(missing_ok=True)
            for name in finished_pass.settled:
                self.settled(number, name).unlink(missing_ok=True)

    def _write(self) -> None:
        records = json.dumps([asdict(finished_pass) for finished_pass in self._done])
        write_atomically(self.folder / _TOLD, dump_json_with_checksum({"passes": records, "private": self._is_private}))

    def _is_whole(self) -> bool:
        """Whether what is needed of the passes is what was written."""
        digests = [(self.rows(len(self) - 1), self._done[-1].rows)]
        digests += [(self.events(number), finished_pass.events) for number, finished_pass in enumerate(self._done)]
        return all(file.is_file() and file_digest(file) == digest for file, digest in digests)

    def _clear(self) -> None:
        """Leave nothing but the files of passes that are done."""
        stay = {self.folder / _TOLD} if self._done else set()
        for number, finished_pass in enumerate(self._done):
            stay |= {self.events(number), *(self.settled(number, name) for name in finished_pass.settled)}
            stay |= {self.rows(number)} if finished_pass.rows is not None else set()
        for file in set(self.folder.iterdir()) - stay:
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def _begun(folder: Path, keys: Sequence[str]) -> list[FinishedPass]:
    """The passes in a folder with these keys, up to the last one whose rows are there."""
    try:
        records = [
            FinishedPass(**entry)
            for entry in json.loads(load_json_with_checksum((folder / _TOLD).read_bytes(), folder)["passes"])
        ]
    except (OSError, CorruptArtifact, KeyError, TypeError):  # the last two: as another version tells it
        return []
    same = [
        finished_pass
        for finished_pass, _ in takewhile(lambda pair: pair[0].key == pair[1], zip(records, keys, strict=False))
    ]
    while same and same[-1].rows is None:
        same.pop()
    return same


def _is_private(folder: Path) -> bool:
    """Whether a making took out what tells of persons."""
    try:
        return bool(load_json_with_checksum((folder / _TOLD).read_bytes(), folder).get("private"))
    except (OSError, CorruptArtifact):
        return False


def _age(folder: Path) -> float:
    record_file = folder / _TOLD
    return record_file.stat().st_mtime if record_file.is_file() else 0.0


def read_rows(artifact: Artifact, split: str) -> Iterator[list[Row]]:
    """A split's rows in order, some at a time, as operators see them; the number of a row is its place."""
    at = 0
    for table in read_split_batches(artifact, split):
        yield batch_from_arrow(number_examples(table, at)).rows
        at += table.num_rows


@dataclass
class DerivedDatasetWriter:
    """Writes a data set beside the one that it is made from; attributes are taken over as they are."""

    work: StepContext
    before: Artifact
    _writers: dict[str, TableWriter] = field(default_factory=dict)
    _dropped: Counter[str] = field(default_factory=Counter)
    _edited: int = 0

    def __post_init__(self) -> None:
        self._events = EventWriter(self.work.folder / "events.parquet")

    def keep(self, split: str, rows: Sequence[Row], labels: Sequence[str | None]) -> None:
        """Write rows of a split, in this order."""
        if rows:
            if split not in self._writers:
                path = self.work.folder / "examples" / f"{split}.parquet"
                self._writers[split] = TableWriter(path, example_schema())
            self._writers[split].write(rows_to_example_batch(rows, labels))

    def rewritten(self, row: Row, reason: str, before: str, after: str) -> None:
        """Note that the answer of a row is another one now."""
        field_name = f"messages[{len(row.messages) - 1}].content"
        kind = self.work.name
        self._events.write(
            [RowEvent(row.id, row.file, row.line, kind, "edit", reason, field_name, 0, len(before), before, after)]
        )
        self._edited += 1

    def drop(self, row: Row, reason: str) -> None:
        """Leave a row out; what stands before a colon in `reason` is what it is counted under."""
        (text,) = redact_openings(
            [opening_text_of(row)], []
        )  # what may not be shown was taken out when the rows were prepared
        self._events.write([drop_event(row, self.work.name, Drop(reason), text)])
        self._dropped[reason.partition(": ")[0]] += 1

    def close(self, *, task: Literal["label", "text"], labels: Sequence[str]) -> DatasetSummary:
        """Finish every file, and write the books."""
        dataset_summary = DatasetSummary.read(self.before)
        rows = {split: self._writers[split].rows for split in list_splits(self.before) if split in self._writers}
        for writer in self._writers.values():
            writer.close()
        self._events.close()
        self._take_over()
        found = DatasetSummary(
            rows_in=sum(dataset_summary.rows.values()),
            rows=rows,
            dropped=dict(sorted(self._dropped.items())),
            edited={self.work.name: self._edited} if self._edited else {},
            task=task,
            labels=sorted(labels),
            choices=dataset_summary.choices,
            sources=dataset_summary.sources,
        )
        found.write(self.work.folder)
        return found

    def _take_over(self) -> None:
        for entry in self.before.manifest.files:
            if entry.path.startswith("attributes/"):
                target = self.work.folder / entry.path
                with translate_write_errors(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.before.path(entry.path), target)


def prompt_or_answer_of(row: Row) -> str:
    """Return the row's prompt, or its text where it has no prompt."""
    return row.prompt or row.answer
