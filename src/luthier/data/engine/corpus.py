"""The corpus that set operators read: spilled rows on disk, or a few rows in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from luthier.data.decisions import Drops, SparseColumn
from luthier.data.dedup.shingles import ComplementIndexSet, IndexSet
from luthier.data.engine.batch import (
    NamedOperator,
    Numbered,
    apply_operator_result,
    drop_event,
    opening_text_of,
    redact_openings,
)
from luthier.data.engine.columns import to_arrow_column, to_arrow_mask
from luthier.data.engine.columns import to_arrow_indices as rows_at
from luthier.data.engine.spill import Spill
from luthier.data.engine.tables import TALK_COLUMNS, arrow_type, batch_from_arrow, read_named_arrays, write_named_arrays
from luthier.data.engine.workers import Workers
from luthier.data.operator import Drop, Operator, OperatorResult, OperatorResultLike, SetOperator, TextEdit
from luthier.data.row import Row

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from luthier.data.row import Batch

Argument = TypeVar("Argument")
Result = TypeVar("Result")
_MOST_HANDS = 4
"""Each may need a few dozen bytes for every row."""
_DROPS = ("dropped", "reasons", "twins", "similarities")


class SpillCorpus:
    """All rows that are left after a pass, for one set operator."""

    def __init__(
        self,
        spill: Spill,
        indices: IndexSet,
        sketches: NDArray[np.uint8],
        tick: Callable[[int, int], None] = lambda done, total: None,
        workers: Workers | None = None,
    ) -> None:
        self.tick = tick
        self._workers = workers or Workers()
        self._spill = spill
        self._places = indices
        self._sketches = sketches

    @property
    def sketches(self) -> NDArray[np.uint8]:
        """(rows, width), without the rows that an operator of the same pass has dropped."""
        return self._sketches

    def __len__(self) -> int:
        return len(self._places)

    def row(self, index: int) -> Row:
        """One row, read from the disk."""
        return self._spill.row(self._places[index])

    def id(self, index: int) -> str:
        """The id of one row, read from the disk."""
        return self._spill.id(self._places[index])

    def map_rows(
        self, job: Callable[[list[Row], Argument], Result], requests: Iterable[tuple[Sequence[int], Argument]]
    ) -> Iterator[Result]:
        """What a job makes of what is said in the rows at some places, and of one value more, in order.

        Here or in the processes; nothing else of the rows is read.
        """
        whole = ((job, self._spill, self._places[list(indices)].tolist(), value) for indices, value in requests)
        return self._workers.map(_judged, whole)

    def map_items(self, job: Callable[..., Result], arg_tuples: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """What a job makes of each, in order, here or in a few of the processes."""
        return self._workers.map(job, arg_tuples, _MOST_HANDS)

    @property
    def scratch(self) -> Path | None:
        """The folder of the rows themselves."""
        return self._spill.path.parent

    def rows(self) -> Iterator[Row]:
        """All rows in order, streamed from the disk."""
        start = 0
        for table in self._spill.batches():
            end = start + table.num_rows
            mine = self._places[self._places.below(start) : self._places.below(end)] - start
            yield from batch_from_arrow(table if len(mine) == table.num_rows else table.take(rows_at(mine))).rows
            start = end


def _judged(
    job: Callable[[list[Row], Argument], Result], spill: Spill, indices: Sequence[int], value: Argument
) -> Result:
    return job([spill.message_row(index) for index in indices], value)


class SetOperatorResult(NamedTuple):
    """What a set operator said, by places in the spill."""

    one: NamedOperator
    indices: ComplementIndexSet | None
    """The rows that it saw, where a column has a value for each of them."""
    edits: Mapping[int, list[TextEdit]]
    drops: Drops
    columns: dict[str, pa.Array | SparseColumn]
    """Its attributes: one value for each row that it saw, or only those that are not like the rest."""
    notes: list[str]
    counts: dict[str, dict[str, int]]

    @classmethod
    def of(cls, one: NamedOperator, indices: ComplementIndexSet, outcome: OperatorResultLike) -> SetOperatorResult:
        """What counts rows as its operator saw them."""
        edits = {indices[index]: edits for index, edits in outcome.edits.items()}
        columns: dict[str, pa.Array | SparseColumn] = {}
        for name, kind in one.operator.writes.items():
            values = outcome.attributes[name]
            columns[name] = (
                values.at(indices) if isinstance(values, SparseColumn) else to_arrow_column(values, arrow_type(kind))
            )
        drops = Drops.of(outcome.drops).at(indices)
        return cls(one, _needed(indices, columns), edits, drops, columns, outcome.notes, outcome.counts)

    def write(self, path: Path) -> None:
        """Put it down in a file: an Arrow table of one row, whose cells are lists."""
        cells: dict[str, pa.Array] = dict(zip(_DROPS, self.drops.arrays(), strict=True))
        rows: dict[str, int] = {}
        for name, values in self.columns.items():
            if isinstance(values, SparseColumn):
                rows[name] = len(values)
                cells[f"places.{name}"], cells[f"values.{name}"] = values.arrays()
            else:
                cells[f"values.{name}"] = values
        state = {"edits": list(self.edits.items()), "rows": rows, "notes": self.notes, "counts": self.counts}
        write_named_arrays(path, cells, json.dumps(state))

    @classmethod
    def read(cls, path: Path, one: NamedOperator, indices: ComplementIndexSet) -> SetOperatorResult:
        """What was put down; `places` are those of the rows that it saw."""
        cells, written = read_named_arrays(path)
        state = json.loads(written)
        columns: dict[str, pa.Array | SparseColumn] = {
            name: SparseColumn.again(state["rows"][name], cells[f"places.{name}"].to_numpy(), cells[f"values.{name}"])
            if name in state["rows"]
            else cells[f"values.{name}"]
            for name in one.operator.writes
        }
        edits = {index: [TextEdit(*edit) for edit in edits] for index, edits in state["edits"]}
        drops = Drops.again(*(cells[name] for name in _DROPS))
        return cls(one, _needed(indices, columns), edits, drops, columns, state["notes"], state["counts"])

    def outcome(self, indices: NDArray[np.int64]) -> OperatorResult:
        """The part that concerns the rows at these places of the spill."""
        at = indices.tolist()
        return OperatorResult(
            {index: self.edits[position] for index, position in enumerate(at) if position in self.edits},
            self.drops.among(indices),
            {name: values.to_pylist() for name, values in self._taken(indices).items()},
        )

    def carry_out(
        self, table: pa.RecordBatch, indices: NDArray[np.int64], guards: Sequence[Operator]
    ) -> tuple[pa.RecordBatch, list[Numbered]]:
        """Add the columns to rows at these places, and leave out the dropped ones; rows are not taken apart."""
        import pyarrow as pa

        drops = self.drops.among(indices)
        columns = {f"{self.one.name}.{name}": values for name, values in self._taken(indices).items()}
        schema = pa.schema([*table.schema, *((name, values.type) for name, values in columns.items())])
        table = pa.RecordBatch.from_arrays([*table.columns, *columns.values()], schema=schema)
        events = _drop_events(table, self.one.name, drops, guards)
        if drops:
            table = table.filter(to_arrow_mask(self.drops.stay(indices)))
        return table, events

    def _taken(self, indices: NDArray[np.int64]) -> dict[str, pa.Array]:
        at = None if self.indices is None else rows_at(self.indices.at(indices))
        return {
            name: values.of(indices) if isinstance(values, SparseColumn) else values.take(at)
            for name, values in self.columns.items()
        }


def _needed(indices: ComplementIndexSet, columns: Mapping[str, pa.Array | SparseColumn]) -> ComplementIndexSet | None:
    """The places of rows, where a column has a value for each of them."""
    return None if all(isinstance(values, SparseColumn) for values in columns.values()) else indices


def _drop_events(
    table: pa.RecordBatch, operator: str, drops: Mapping[int, Drop], guards: Sequence[Operator]
) -> list[Numbered]:
    """That rows at some indices go."""
    if not drops:
        return []
    gone = batch_from_arrow(
        table.select(list(TALK_COLUMNS)).take(rows_at(np.fromiter(drops, np.int64, len(drops))))
    ).rows
    opening_texts = redact_openings([opening_text_of(row) for row in gone], guards)
    return [
        (row.n, drop_event(row, operator, drop, text))
        for row, drop, text in zip(gone, drops.values(), opening_texts, strict=True)
    ]


def apply_set_operator_results(
    spill: Spill, settled: Sequence[SetOperatorResult], guards: Sequence[Operator]
) -> Iterator[tuple[Batch | pa.RecordBatch, list[Numbered]]]:
    """Read a pass's rows, and do to each what the set operators said about it."""
    edited = [operator_result.edits for operator_result in settled if operator_result.edits]
    start = 0
    for table in spill.batches():
        indices = np.arange(start, start + table.num_rows)
        start += table.num_rows
        if any(index in edits for edits in edited for index in indices.tolist()):
            yield _taken_apart(table, indices, settled, guards)
            continue
        events: list[Numbered] = []
        left = table
        for operator_result in settled:
            left, made = operator_result.carry_out(left, indices, guards)
            indices = indices[operator_result.drops.stay(indices)] if made else indices
            events += made
        yield left, sorted(events, key=lambda numbered: numbered[0])


def _taken_apart(
    table: pa.RecordBatch, indices: NDArray[np.int64], settled: Sequence[SetOperatorResult], guards: Sequence[Operator]
) -> tuple[Batch, list[Numbered]]:
    batch = batch_from_arrow(table)
    place_of = {row.n: index for row, index in zip(batch.rows, indices.tolist(), strict=True)}
    events: list[Numbered] = []
    for operator_result in settled:
        outcome = operator_result.outcome(np.array([place_of[row.n] for row in batch.rows], dtype=np.int64))
        batch, made = apply_operator_result(batch, operator_result.one, outcome, guards)
        events += made
    return batch, sorted(events, key=lambda numbered: numbered[0])


class InMemoryRows:
    """Rows in memory, as a set operator wants to see them."""

    def __init__(self, operator: SetOperator, rows: list[Row]) -> None:
        self._rows = rows
        sketches = operator.sketch(rows)
        width = len(sketches[0]) if sketches else 0
        self._sketches = np.frombuffer(b"".join(sketches), np.uint8).reshape(len(rows), width)

    @property
    def sketches(self) -> NDArray[np.uint8]:
        """(rows, width)."""
        return self._sketches

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Row:
        """One row."""
        return self._rows[index]

    def id(self, index: int) -> str:
        """The id of one row."""
        return self._rows[index].id

    def rows(self) -> Iterator[Row]:
        """All rows."""
        return iter(self._rows)

    def map_rows(
        self, job: Callable[[list[Row], Argument], Result], requests: Iterable[tuple[Sequence[int], Argument]]
    ) -> Iterator[Result]:
        """What a job makes of rows at some places, here."""
        return (job([self._rows[index] for index in indices], value) for indices, value in requests)

    def map_items(self, job: Callable[..., Result], arg_tuples: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """What a job makes of each, here."""
        return starmap(job, arg_tuples)

    @property
    def scratch(self) -> Path | None:
        """A few rows leave no files worth a folder."""
        return None

    def tick(self, done: int, total: int) -> None:
        """A few rows are done at once."""
