"""The rows of each split, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.passes.apply import Named
from luthier.data.passes.columns import column, mask
from luthier.data.passes.spill import Spill
from luthier.data.passes.tables import EXAMPLE_COLUMNS, TALK_COLUMNS, TableWriter, example_schema, from_arrow
from luthier.data.passes.workers import Workers
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

    def write(self, folder: Path, workers: Workers) -> None:
        """Examples by split, and attributes by operator; each file is written for itself, by whichever process."""
        asked: list[tuple[Any, ...]] = [
            (_write_examples, folder / "examples" / f"{name}.parquet", self.spill, self._in(name), self.task)
            for name in self.names()
        ]
        taken = self.splits != NAMES.index(NOT_TAKEN)
        for one in self.operators:
            if one.operator.writes:
                path = folder / "attributes" / f"{one.name}.parquet"
                asked.append((_write_attributes, path, self.spill, taken, one.name))
        for _ in workers.map(_done, asked):
            pass

    def _in(self, name: str) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.splits == NAMES.index(name)
        return found


def _done(job: Callable[..., None], *values: Any) -> None:
    job(*values)


def _write_examples(path: Path, spill: Spill, wanted: NDArray[np.bool_], task: Task) -> None:
    writer = TableWriter(path, example_schema())
    for table in _chosen(spill, wanted):
        writer.write(_examples(table, task))
    writer.close()


def _write_attributes(path: Path, spill: Spill, wanted: NDArray[np.bool_], operator: str) -> None:
    writer = TableWriter(path, _attribute_schema(spill.schema, operator))
    names = ["id", *(f"{operator}.{name}" for name in writer.schema.names[1:])]
    for table in _chosen(spill, wanted, names):
        writer.write(table.rename_columns(writer.schema.names))
    writer.close()


def _chosen(spill: Spill, wanted: NDArray[np.bool_], names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows that are wanted, batch by batch, with the columns that are named or all."""
    at = 0
    for table in spill.batches():
        mine = wanted[at : at + table.num_rows]
        at += table.num_rows
        if mine.any():
            yield (table if names is None else table.select(list(names))).filter(mask(mine))


def _examples(table: pa.RecordBatch, task: Task) -> pa.RecordBatch:
    """The columns of examples; of labelled rows, the answer once more as the label."""
    import pyarrow as pa

    own = {"label": column([None] * table.num_rows, pa.string())}
    if task == "label":
        rows = from_arrow(table.select(list(TALK_COLUMNS))).rows
        own["label"] = column([row.answer for row in rows], pa.string())
        own["kind"] = column(["label"] * len(rows), pa.string())
    columns = [own[name] if name in own else table.column(name) for name in EXAMPLE_COLUMNS]
    return pa.RecordBatch.from_arrays(columns, schema=example_schema())


def _attribute_schema(spill: pa.Schema, operator: str) -> pa.Schema:
    import pyarrow as pa

    own = [field for field in spill if field.name.startswith(f"{operator}.")]
    return pa.schema([("id", pa.string()), *((field.name.split(".", 1)[1], field.type) for field in own)])
