"""A data set made from another, row by row: what is rewritten, what is left out, and books that balance again."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from luthier.core.artifact import Artifact
from luthier.core.files import writing
from luthier.core.step import Work
from luthier.data.augment.rows import as_examples, tables
from luthier.data.operator import Drop
from luthier.data.passes.apply import drop_event, opening, shown_openings
from luthier.data.passes.tables import Event, EventWriter, TableWriter, example_schema, from_arrow, numbered
from luthier.data.row import Row
from luthier.text.dataset import DatasetSummary, splits


def read_rows(artifact: Artifact, split: str) -> Iterator[list[Row]]:
    """A split's rows in order, some at a time, as operators see them; the number of a row is its place."""
    at = 0
    for table in tables(artifact, split):
        yield from_arrow(numbered(table, at)).rows
        at += table.num_rows


@dataclass
class Remade:
    """Writes a data set beside the one that it is made from; attributes are taken over as they are."""

    work: Work
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
            self._writers[split].write(as_examples(rows, labels))

    def rewritten(self, row: Row, reason: str, before: str, after: str) -> None:
        """Note that the answer of a row is another one now."""
        place = f"messages[{len(row.messages) - 1}].content"
        kind = self.work.name
        self._events.write(
            [Event(row.id, row.file, row.line, kind, "edit", reason, place, 0, len(before), before, after)]
        )
        self._edited += 1

    def drop(self, row: Row, reason: str) -> None:
        """Leave a row out; what stands before a colon in `reason` is what it is counted under."""
        (text,) = shown_openings([opening(row)], [])  # what may not be shown was taken out when the rows were prepared
        self._events.write([drop_event(row, self.work.name, Drop(reason), text)])
        self._dropped[reason.partition(": ")[0]] += 1

    def close(self, *, task: Literal["label", "text"], labels: Sequence[str]) -> DatasetSummary:
        """Finish every file, and write the books."""
        told = DatasetSummary.read(self.before)
        rows = {split: self._writers[split].rows for split in splits(self.before) if split in self._writers}
        for writer in self._writers.values():
            writer.close()
        self._events.close()
        self._take_over()
        found = DatasetSummary(
            rows_in=sum(told.rows.values()),
            rows=rows,
            dropped=dict(sorted(self._dropped.items())),
            edited={self.work.name: self._edited} if self._edited else {},
            task=task,
            labels=sorted(labels),
            choices=told.choices,
            sources=told.sources,
        )
        found.write(self.work.folder)
        return found

    def _take_over(self) -> None:
        for entry in self.before.manifest.files:
            if entry.path.startswith("attributes/"):
                target = self.work.folder / entry.path
                with writing(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.before.path(entry.path), target)


def asked_text(row: Row) -> str:
    """What a row asks; a text to continue asks itself."""
    return row.prompt or row.answer
