"""A prepared data set's rows, laid out on the disk so that any of them can be reached by its place."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.artifacts.dataset import MADE
from luthier.artifacts.parquet import read_parquet_batches
from luthier.core.artifact import Artifact
from luthier.data.engine.columns import to_arrow_column
from luthier.data.engine.spill import Spill, SpillWriter
from luthier.data.engine.tables import batch_from_arrow, dump_cell_json, example_schema, number_examples, spill_schema
from luthier.data.row import MESSAGES, Row

if TYPE_CHECKING:
    import pyarrow as pa

READ_ROWS = 1024


@dataclass
class SplitRows:
    """Rows of some splits in order, with what is remembered of each."""

    spill: Spill
    ids: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """Each row's label; empty for free text."""
    made: set[int] = field(default_factory=set)
    """Places of rows that an earlier `augment` made."""

    @classmethod
    def read(cls, artifact: Artifact, splits: Sequence[str], path: Path) -> SplitRows:
        """Lay out the rows of these splits in a file of their own."""
        path.unlink(missing_ok=True)
        writer = SpillWriter(path, spill_schema({}))
        ids: list[str] = []
        classes: list[str] = []
        for split in splits:
            for table in read_split_batches(artifact, split):
                writer.write(number_examples(table, writer.rows))
                ids += table.column("id").to_pylist()
                classes += [sys.intern(label) for label in table.column("label").to_pylist() if label is not None]
        rows = cls(writer.close(), ids, classes)
        rows.made = {at for at, row in enumerate(rows.rows()) if MADE in row.meta}
        return rows

    @property
    def labels(self) -> Mapping[str, int]:
        """Rows of each class, those that somebody made included."""
        return Counter(self.classes)

    def __len__(self) -> int:
        return self.spill.rows

    def rows(self) -> Iterator[Row]:
        """All rows, streamed from the disk."""
        for table in self.spill.batches():
            yield from batch_from_arrow(table).rows

    def row(self, index: int) -> Row:
        """One row."""
        return self.spill.row(index)

    def label(self, index: int) -> str | None:
        """The class of a row, when there are classes."""
        return self.classes[index] if self.classes else None


def read_split_batches(artifact: Artifact, split: str) -> Iterator[pa.RecordBatch]:
    """A split's examples as they lie in its file."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(artifact.path(f"examples/{split}.parquet")) as file:
        yield from read_parquet_batches(file, READ_ROWS)


def rows_to_example_batch(rows: Sequence[Row], labels: Sequence[str | None]) -> pa.RecordBatch:
    """Rows as they lie in a split's file."""
    import pyarrow as pa

    columns: dict[str, Sequence[Any]] = {
        "id": [row.id for row in rows],
        "source": [row.source for row in rows],
        "file": [row.file for row in rows],
        "line": [row.line for row in rows],
        "kind": [row.kind for row in rows],
        "messages": [MESSAGES.dump_json(row.messages, exclude_defaults=True).decode() for row in rows],
        "label": list(labels),
        "tools": [dump_cell_json(row.tools) for row in rows],
        "meta": [dump_cell_json(row.meta) for row in rows],
        "group": [row.group for row in rows],
        "row": [row.row for row in rows],
    }
    schema = example_schema()
    return pa.RecordBatch.from_arrays(
        [to_arrow_column(columns[entry.name], entry.type) for entry in schema], schema=schema
    )
