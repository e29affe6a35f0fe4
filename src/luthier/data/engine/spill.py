"""Spill rows between passes to Arrow files, and pack rows and events for other processes.

A spill is one Arrow file, written batch by batch and memory-mapped for reading. Rows and events travel to other
processes as plain values, since pickled objects take several times as long.
"""

from __future__ import annotations

import bisect
import json
import mmap
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.chat.messages import Message
from luthier.core.files import translate_write_errors
from luthier.data.engine.batch import Numbered
from luthier.data.engine.tables import ROW_COLUMNS, RowEvent
from luthier.data.row import MESSAGES, Batch, Row

if TYPE_CHECKING:
    import pyarrow as pa

_MESSAGES = ROW_COLUMNS.index("messages")
_BATCHES_HELD = 256
_BATCHES_BETWEEN, _FINDS_BETWEEN = 8, 64
"""After so many batches read, or rows looked up, pages of the file are let go."""


class SpillWriter:
    """Rows of one pass, written batch by batch to one Arrow file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow as pa

        self.path = path
        self.schema = schema
        self.starts: list[int] = []
        """Place of each batch's first row."""
        self.rows = 0
        with translate_write_errors(path):
            self._file = pa.OSFile(str(path), "wb")
            self._writer = pa.ipc.new_file(self._file, schema)

    def write(self, table: pa.RecordBatch) -> None:
        """Add some rows; a batch without rows leaves no trace."""
        if table.num_rows:
            self.starts.append(self.rows)
            self.rows += table.num_rows
            with translate_write_errors(self.path):
                self._writer.write_batch(table)

    def close(self) -> Spill:
        """Finish the file and open it for reading."""
        with translate_write_errors(self.path):
            self._writer.close()
            self._file.close()
        return Spill(self.path, self.starts, self.rows, self.schema)


@lru_cache(maxsize=1)
def _opened(path: str, rows: int) -> Spill:
    """`rows` keeps a file apart that was written anew."""
    spill = open_spill(Path(path))
    assert spill.rows == rows
    return spill


def open_spill(path: Path) -> Spill:
    """The rows of a pass that another process, or another run, has finished."""
    import pyarrow as pa

    with pa.ipc.open_file(path) as file:
        starts = [0, *accumulate(file.get_batch(index).num_rows for index in range(file.num_record_batches))]
        return Spill(path, starts[:-1], starts[-1], file.schema)


class Spill:
    """Rows of a finished pass, mapped from the disk: streamed, or reached one by one."""

    def __init__(self, path: Path, starts: list[int], rows: int, schema: pa.Schema) -> None:
        import pyarrow as pa

        self.path = path
        self.rows = rows
        self.schema = schema
        self._starts = starts
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._reader = pa.ipc.open_file(pa.py_buffer(self._map))
        self._batch = lru_cache(maxsize=_BATCHES_HELD)(self._reader.get_batch)
        self._found = 0

    def _let_go(self) -> None:
        """Pages that were read need not count as memory of ours; who reads them again has them from the system."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file for itself."""
        return _opened, (str(self.path), self.rows)

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self._starts)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All batches in order."""
        return map(self.batch, range(len(self)))

    def batch(self, index: int) -> pa.RecordBatch:
        """One batch, for somebody who goes through all of them."""
        if index % _BATCHES_BETWEEN == 0:
            self._let_go()
        return self._reader.get_batch(index)

    def row(self, index: int) -> Row:
        """One row by its place."""
        table, at = self._find(index)
        cell = {name: table.column(column_index)[at].as_py() for column_index, name in enumerate(ROW_COLUMNS)}
        messages = MESSAGES.validate_json(cell.pop("messages"))
        tools = tuple(json.loads(cell.pop("tools")))
        meta = json.loads(cell.pop("meta"))
        return Row(messages=messages, tools=tools, meta=meta, **cell)

    def message_row(self, index: int) -> Row:
        """What is said in one row by its place, and nothing else of it: each column that is read costs pages."""
        table, at = self._find(index)
        messages = MESSAGES.validate_json(table.column(_MESSAGES)[at].as_py())
        return Row(n=-1, id="", source="", file="", line=0, kind="chat", messages=messages)

    def id(self, index: int) -> str:
        """The id of one row by its place."""
        table, at = self._find(index)
        return str(table.column(1)[at].as_py())

    def _find(self, row_index: int) -> tuple[pa.RecordBatch, int]:
        self._found += 1
        if self._found % _FINDS_BETWEEN == 0:
            self._let_go()
        index = bisect.bisect_right(self._starts, row_index) - 1
        return self._batch(index), row_index - self._starts[index]


_FIELDS = tuple(Message.model_fields)
_said = attrgetter(*_FIELDS)
PackedEvents = tuple[list[int], list[tuple[Any, ...]]]
"""Numbers of rows, and the events field by field."""


class TupleBatch(NamedTuple):
    """A batch whose rows are tuples, and their turns, too."""

    rows: list[tuple[Any, ...]]
    attributes: dict[str, list[Any]]


def pack(batch: Batch) -> TupleBatch:
    """A batch as plain values."""
    return TupleBatch([_row(row) for row in batch.rows], batch.attributes)


def unpack(packed: TupleBatch) -> Batch:
    """The batch again."""
    return Batch([_row_again(*values) for values in packed.rows], packed.attributes)


def pack_events(events: Sequence[Numbered]) -> PackedEvents:
    """Events as plain values."""
    return [number for number, _ in events], list(zip(*(event for _, event in events), strict=True))


def unpack_events(packed: PackedEvents) -> list[Numbered]:
    """The events again."""
    numbers, fields = packed
    return list(zip(numbers, map(RowEvent._make, zip(*fields, strict=True)), strict=True))


def _row(row: Row) -> tuple[Any, ...]:
    turns = list(map(_said, row.messages))
    return row.n, row.id, row.source, row.file, row.line, row.kind, turns, row.tools, row.meta, row.group, row.row


def _row_again(*values: Any) -> Row:
    number, name, source, file, line, kind, turns, tools, meta, group, at = values
    messages = MESSAGES.validate_python([dict(zip(_FIELDS, turn, strict=True)) for turn in turns])
    return Row(number, name, source, file, line, kind, messages, tools, meta, group, at)
