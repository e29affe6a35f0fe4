"""The rows of each split, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.passes.apply import Named
from luthier.data.passes.columns import column, mask
from luthier.data.passes.spill import Spill
from luthier.data.passes.tables import EXAMPLE_COLUMNS, TableWriter, example_schema, from_arrow
from luthier.data.split import NAMES, NOT_TAKEN, TEST, TRAIN, VALIDATION
from luthier.data.task import Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass
class Result:
    """The rows of each split, and how they are written."""

    spill: Spill
    splits: NDArray[np.int8]
    task: Task
    operators: list[Named]

    def names(self) -> list[str]:
        """Splits that have rows."""
        return [name for name in (TRAIN, VALIDATION, TEST) if self.count(name)]

    def count(self, name: str) -> int:
        """Rows of a split."""
        return int((self.splits == NAMES.index(name)).sum())

    def write(self, folder: Path) -> None:
        """Examples by split, and attributes by operator."""
        writers = {
            name: TableWriter(folder / "examples" / f"{name}.parquet", example_schema()) for name in self.names()
        }
        columns = {
            one.name: TableWriter(
                folder / "attributes" / f"{one.name}.parquet", _attribute_schema(self.spill.schema, one.name)
            )
            for one in self.operators
            if one.operator.writes
        }
        for table, splits in self._tables():
            examples = self._examples(table)
            for name, writer in writers.items():
                writer.write(_chosen(examples, splits == NAMES.index(name)))
            for name, writer in columns.items():
                found = _attributes(table, name, writer.schema)
                writer.write(_chosen(found, splits != NAMES.index(NOT_TAKEN)))
        for writer in (*writers.values(), *columns.values()):
            writer.close()

    def _tables(self) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int8]]]:
        at = 0
        for table in self.spill.batches():
            yield table, self.splits[at : at + table.num_rows]
            at += table.num_rows

    def _examples(self, table: pa.RecordBatch) -> pa.RecordBatch:
        """The columns of examples; of labelled rows, the answer once more as the label."""
        import pyarrow as pa

        is_label = self.task == "label"
        labels = [row.answer for row in from_arrow(table).rows] if is_label else [None] * table.num_rows
        own = {"label": column(labels, pa.string())}
        if is_label:
            own["kind"] = column(["label"] * table.num_rows, pa.string())
        columns = [own[name] if name in own else table.column(name) for name in EXAMPLE_COLUMNS]
        return pa.RecordBatch.from_arrays(columns, schema=example_schema())


def _attribute_schema(spill: pa.Schema, operator: str) -> pa.Schema:
    import pyarrow as pa

    own = [field for field in spill if field.name.startswith(f"{operator}.")]
    return pa.schema([("id", pa.string()), *((field.name.split(".", 1)[1], field.type) for field in own)])


def _attributes(table: pa.RecordBatch, operator: str, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    names = ["id", *(f"{operator}.{name}" for name in schema.names[1:])]
    return pa.RecordBatch.from_arrays([table.column(name) for name in names], schema=schema)


def _chosen(table: pa.RecordBatch, wanted: NDArray[np.bool_]) -> pa.RecordBatch:
    return table.filter(mask(wanted))
