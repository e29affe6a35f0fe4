"""Rows as Arrow, and Parquet files whose bytes do not depend on how rows arrived."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.core.files import translate_write_errors
from luthier.data.engine.columns import measure_byte_lengths, to_arrow_column, to_arrow_indices
from luthier.data.operator import Column
from luthier.data.row import MESSAGES, Batch, Row

if TYPE_CHECKING:
    import pyarrow as pa

ROW_COLUMNS = ("n", "id", "source", "file", "line", "kind", "messages", "tools", "meta", "group", "row")
"""Columns of rows between passes, before their attributes."""
TALK_COLUMNS = tuple(name for name in ROW_COLUMNS if name not in ("tools", "meta"))
"""Those of them that tell what is said in a row and where it comes from: the others may hold much, and are JSON."""
EXAMPLE_COLUMNS = ("id", "source", "file", "line", "kind", "messages", "label", "tools", "meta", "group", "row")
"""Columns of a split's file."""
ROW_GROUP = 8192
"""Rows of a Parquet row group: fixed, so that the same rows make the same bytes."""
GROUP_BYTES = 64 << 20
"""Bytes of text that end a row group earlier: fixed, too, and told from the rows alone."""


class RowEvent(NamedTuple):
    """One edit or drop, as `events.parquet` keeps it."""

    id: str
    file: str
    line: int
    operator: str
    action: str
    reason: str
    field: str | None = None
    start: int | None = None
    end: int | None = None
    before: str | None = None
    after: str | None = None
    twin: str | None = None
    similarity: float | None = None
    row: int | None = None
    """The row's number as a spreadsheet counts, where that is not the line's."""
    text: str | None = None
    """How a row that is left out begins."""


def example_schema() -> pa.Schema:
    """Columns of a split's file, with their types."""
    import pyarrow as pa

    return pa.schema([(name, pa.int64() if name in ("line", "row") else pa.string()) for name in EXAMPLE_COLUMNS])


def event_schema() -> pa.Schema:
    """Columns of `events.parquet`."""
    import pyarrow as pa

    whole, real = pa.int64(), pa.float64()
    types = {"line": whole, "start": whole, "end": whole, "similarity": real, "row": whole}
    return pa.schema([(name, types.get(name, pa.string())) for name in RowEvent._fields])


def spill_schema(attributes: dict[str, Column]) -> pa.Schema:
    """Columns of rows between passes, with the attributes written so far."""
    import pyarrow as pa

    fixed = [(name, pa.int64() if name in ("n", "line", "row") else pa.string()) for name in ROW_COLUMNS]
    return pa.schema([*fixed, *((name, arrow_type(kind)) for name, kind in attributes.items())])


def event_table(events: Sequence[RowEvent]) -> pa.RecordBatch:
    """Some events, at least one, as one Arrow batch."""
    import pyarrow as pa

    schema = event_schema()
    arrays = [
        to_arrow_column(values, kind.type) for values, kind in zip(zip(*events, strict=True), schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def arrow_type(kind: Column) -> pa.DataType:
    """What an attribute column of a kind is in Arrow."""
    import pyarrow as pa

    return {"text": pa.string(), "number": pa.float64(), "count": pa.int64(), "flag": pa.bool_()}[kind]


def to_arrow(batch: Batch, schema: pa.Schema) -> pa.RecordBatch:
    """Rows as one Arrow batch."""
    import pyarrow as pa

    rows = batch.rows
    columns: dict[str, Sequence[Any]] = {
        "n": [row.n for row in rows],
        "id": [row.id for row in rows],
        "source": [row.source for row in rows],
        "file": [row.file for row in rows],
        "line": [row.line for row in rows],
        "kind": [row.kind for row in rows],
        "messages": [_said(row.messages, exclude_defaults=True).decode() for row in rows],
        "tools": [dump_tools(row.tools) if row.tools else "[]" for row in rows],
        "meta": [dump_cell_json(row.meta) if row.meta else "{}" for row in rows],
        "group": [row.group for row in rows],
        "row": [row.row for row in rows],
        **batch.attributes,
    }
    arrays = [to_arrow_column(columns[entry.name], entry.type) for entry in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def batch_from_arrow(table: pa.RecordBatch) -> Batch:
    """The rows of one Arrow batch; where it has no `tools` and no `meta`, neither have they."""
    columns = table.to_pydict()
    fixed = [columns.pop(name) for name in ("n", "id", "source", "file", "line", "kind")]
    messages = [MESSAGES.validate_json(text) for text in columns.pop("messages")]
    no_tools, no_meta = ["[]"] * len(messages), ["{}"] * len(messages)
    tools = [tuple(json.loads(text)) if text != "[]" else () for text in columns.pop("tools", no_tools)]
    meta = [json.loads(text) if text != "{}" else {} for text in columns.pop("meta", no_meta)]
    group, number = columns.pop("group"), columns.pop("row")
    rows = [Row(*values) for values in zip(*fixed, messages, tools, meta, group, number, strict=True)]
    return Batch(rows, columns)


def number_examples(table: pa.RecordBatch, start: int) -> pa.RecordBatch:
    """Examples as rows between passes, numbered from `start`; a column that their data set has not is empty."""
    import pyarrow as pa

    schema, known = spill_schema({}), set(table.schema.names)
    columns = [to_arrow_indices(np.arange(start, start + table.num_rows))]
    for entry in list(schema)[1:]:
        columns.append(table.column(entry.name) if entry.name in known else pa.nulls(table.num_rows, entry.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def serialize_arrow_batch(table: pa.RecordBatch) -> bytes:
    """An Arrow batch with its schema, for another process."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(table)
    return bytes(sink.getvalue())


def deserialize_arrow_batch(written: bytes) -> pa.RecordBatch:
    """Return the batch that `serialize_arrow_batch` wrote."""
    import pyarrow as pa

    return pa.ipc.open_stream(pa.py_buffer(written)).read_next_batch()


def write_named_arrays(path: Path, cells: dict[str, pa.Array], metadata: str) -> None:
    """Write named Arrow arrays of any lengths, and a metadata string, to one file."""
    import pyarrow as pa

    ends = [to_arrow_indices(np.array([0, len(values)])) for values in cells.values()]
    lists = [pa.LargeListArray.from_arrays(*of) for of in zip(ends, cells.values(), strict=True)]
    table = pa.RecordBatch.from_arrays([*lists, to_arrow_column([metadata], pa.string())], names=[*cells, ""])
    with (
        translate_write_errors(path),
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_batch(table)


def read_named_arrays(path: Path) -> tuple[dict[str, pa.Array], str]:
    """What `write_named_arrays` wrote, mapped from the disk."""
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    cells = {name: table.column(name)[0].values for name in table.schema.names if name}
    return cells, str(table.column("")[0].as_py())


def release_arrow_memory() -> None:
    """Give the system what Arrow keeps for later of tables that were let go."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def dump_tools(tools: Any) -> str:
    """Schemas of tools as JSON, their keys in the order in which they were given."""
    return _AS_GIVEN.encode(tools)


def dump_cell_json(value: Any) -> str:
    """JSON as it stands in a cell."""
    return _ENCODER.encode(value)


_said = MESSAGES.serializer.to_json
"""What `MESSAGES.dump_json` calls, which takes as long as this to gather its arguments."""
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False)
"""Made once: `json.dumps` makes one for each value."""
_AS_GIVEN = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
"""For schemas of tools: a model reads their keys in this order, in training as when it is served."""


class TableWriter:
    """A Parquet file written in row groups of one size, whatever the batches were."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self.schema = schema
        self.rows = 0
        self._held: list[pa.RecordBatch] = []
        self._held_rows = 0
        self._held_bytes = 0
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, table: pa.RecordBatch) -> None:
        """Add some rows."""
        self._held.append(table)
        self._held_rows += table.num_rows
        self.rows += table.num_rows
        self._held_bytes += table.nbytes
        if self._held_rows >= ROW_GROUP or self._held_bytes >= GROUP_BYTES:
            self._flush(whole_groups=True)

    def _flush(self, *, whole_groups: bool) -> None:
        import pyarrow as pa

        held = pa.Table.from_batches(self._held, self.schema)
        self._held.clear()  # what is joined is held once
        held = held.combine_chunks()
        start = 0
        with translate_write_errors(self.path):
            for end in _group_ends(held):
                self._writer.write_table(held.slice(start, end - start).combine_chunks())
                start = end
            if start < held.num_rows and not whole_groups:
                self._writer.write_table(held.slice(start).combine_chunks())
                start = held.num_rows
        rest = held.slice(start)
        self._held_rows, self._held_bytes = rest.num_rows, rest.nbytes
        if start:  # a copy, lest a few rows hold all of them
            rest = rest.take(to_arrow_indices(np.arange(rest.num_rows)))
        self._held += rest.to_batches()
        release_arrow_memory()

    def close(self) -> None:
        """Write what is held and finish the file."""
        self._flush(whole_groups=False)
        with translate_write_errors(self.path):
            self._writer.close()


def _group_ends(table: pa.Table) -> list[int]:
    """Where row groups end: behind so many rows, or the row with which their texts reach so many bytes."""
    import pyarrow as pa

    sizes = np.zeros(table.num_rows, dtype=np.int64)
    for texts in table.columns:
        if pa.types.is_string(texts.type):
            sizes += measure_byte_lengths(texts)
    until = np.concatenate([[0], np.cumsum(sizes)])
    ends: list[int] = []
    start = 0
    while start < table.num_rows:
        full = int(np.searchsorted(until, until[start] + GROUP_BYTES))
        end = min(start + ROW_GROUP, full)
        if end > table.num_rows:
            break
        ends.append(end)
        start = end
    return ends


class EventWriter:
    """`events.parquet`, written as things happen."""

    def __init__(self, path: Path) -> None:
        self._table = TableWriter(path, event_schema())

    def write(self, events: Sequence[RowEvent]) -> None:
        """Add some events in their order."""
        if events:
            self._table.write(event_table(events))

    def add(self, tables: Iterable[pa.RecordBatch]) -> None:
        """Add events that stand in tables already."""
        for table in tables:
            self._table.write(table)

    def close(self) -> None:
        """Finish the file."""
        self._table.close()
