"""What a set operator sees of the rows that a pass has left, and what it said about them, ready to be carried out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from luthier.data.operator import Drop, Edit, Operator, Outcome, Said
from luthier.data.passes.apply import Named, Numbered, drop_event, opening, shown_openings, take
from luthier.data.passes.columns import column, mask
from luthier.data.passes.columns import places as rows_at
from luthier.data.passes.spill import Spill
from luthier.data.passes.tables import TALK_COLUMNS, arrow_type, from_arrow, read_cells, write_cells
from luthier.data.passes.workers import Workers
from luthier.data.row import Row
from luthier.data.twins.places import Places, Rest
from luthier.data.verdicts import Drops, Sparse

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from luthier.data.row import Batch


Asked = TypeVar("Asked")
Made = TypeVar("Made")
_MOST_HANDS = 4
"""Each may need a few dozen bytes for every row."""
_DROPS = ("dropped", "reasons", "twins", "similarities")


class View:
    """All rows that are left after a pass, for one set operator."""

    def __init__(
        self,
        spill: Spill,
        places: Places,
        sketches: NDArray[np.uint8],
        tick: Callable[[int, int], None] = lambda done, total: None,
        workers: Workers | None = None,
    ) -> None:
        self.tick = tick
        self._workers = workers or Workers()
        self._spill = spill
        self._places = places
        self._sketches = sketches

    @property
    def sketches(self) -> NDArray[np.uint8]:
        """(rows, width), without the rows that an operator of the same pass has dropped."""
        return self._sketches

    def __len__(self) -> int:
        return len(self._places)

    def row(self, place: int) -> Row:
        """One row, read from the disk."""
        return self._spill.row(self._places[place])

    def id(self, place: int) -> str:
        """The id of one row, read from the disk."""
        return self._spill.id(self._places[place])

    def judged(
        self, job: Callable[[list[Row], Asked], Made], asked: Iterable[tuple[Sequence[int], Asked]]
    ) -> Iterator[Made]:
        """What a job makes of what is said in the rows at some places, and of one value more, in order.

        Here or in the processes; nothing else of the rows is read.
        """
        whole = ((job, self._spill, self._places[list(places)].tolist(), value) for places, value in asked)
        return self._workers.map(_judged, whole)

    def made(self, job: Callable[..., Made], asked: Iterable[tuple[Any, ...]]) -> Iterator[Made]:
        """What a job makes of each, in order, here or in a few of the processes."""
        return self._workers.map(job, asked, _MOST_HANDS)

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
            yield from from_arrow(table if len(mine) == table.num_rows else table.take(rows_at(mine))).rows
            start = end


def _judged(job: Callable[[list[Row], Asked], Made], spill: Spill, places: Sequence[int], value: Asked) -> Made:
    return job([spill.said(place) for place in places], value)


class Settled(NamedTuple):
    """What a set operator said, by places in the spill."""

    one: Named
    places: Rest | None
    """The rows that it saw, where a column has a value for each of them."""
    edits: Mapping[int, list[Edit]]
    drops: Drops
    columns: dict[str, pa.Array | Sparse]
    """Its attributes: one value for each row that it saw, or only those that are not like the rest."""
    notes: list[str]
    counts: dict[str, dict[str, int]]

    @classmethod
    def of(cls, one: Named, places: Rest, outcome: Said) -> Settled:
        """What counts rows as its operator saw them."""
        edits = {places[place]: edits for place, edits in outcome.edits.items()}
        columns: dict[str, pa.Array | Sparse] = {}
        for name, kind in one.operator.writes.items():
            values = outcome.attributes[name]
            columns[name] = values.at(places) if isinstance(values, Sparse) else column(values, arrow_type(kind))
        drops = Drops.of(outcome.drops).at(places)
        return cls(one, _needed(places, columns), edits, drops, columns, outcome.notes, outcome.counts)

    def write(self, path: Path) -> None:
        """Put it down in a file: an Arrow table of one row, whose cells are lists."""
        cells: dict[str, pa.Array] = dict(zip(_DROPS, self.drops.arrays(), strict=True))
        rows: dict[str, int] = {}
        for name, values in self.columns.items():
            if isinstance(values, Sparse):
                rows[name] = len(values)
                cells[f"places.{name}"], cells[f"values.{name}"] = values.arrays()
            else:
                cells[f"values.{name}"] = values
        told = {"edits": list(self.edits.items()), "rows": rows, "notes": self.notes, "counts": self.counts}
        write_cells(path, cells, json.dumps(told))

    @classmethod
    def read(cls, path: Path, one: Named, places: Rest) -> Settled:
        """What was put down; `places` are those of the rows that it saw."""
        cells, written = read_cells(path)
        told = json.loads(written)
        columns: dict[str, pa.Array | Sparse] = {
            name: Sparse.again(told["rows"][name], cells[f"places.{name}"].to_numpy(), cells[f"values.{name}"])
            if name in told["rows"]
            else cells[f"values.{name}"]
            for name in one.operator.writes
        }
        edits = {place: [Edit(*edit) for edit in edits] for place, edits in told["edits"]}
        drops = Drops.again(*(cells[name] for name in _DROPS))
        return cls(one, _needed(places, columns), edits, drops, columns, told["notes"], told["counts"])

    def outcome(self, places: NDArray[np.int64]) -> Outcome:
        """The part that concerns the rows at these places of the spill."""
        at = places.tolist()
        return Outcome(
            {index: self.edits[place] for index, place in enumerate(at) if place in self.edits},
            self.drops.among(places),
            {name: values.to_pylist() for name, values in self._taken(places).items()},
        )

    def carry_out(
        self, table: pa.RecordBatch, places: NDArray[np.int64], guards: Sequence[Operator]
    ) -> tuple[pa.RecordBatch, list[Numbered]]:
        """Add the columns to rows at these places, and leave out the dropped ones; rows are not taken apart."""
        import pyarrow as pa

        drops = self.drops.among(places)
        columns = {f"{self.one.name}.{name}": values for name, values in self._taken(places).items()}
        schema = pa.schema([*table.schema, *((name, values.type) for name, values in columns.items())])
        table = pa.RecordBatch.from_arrays([*table.columns, *columns.values()], schema=schema)
        events = _drop_events(table, self.one.name, drops, guards)
        if drops:
            table = table.filter(mask(self.drops.stay(places)))
        return table, events

    def _taken(self, places: NDArray[np.int64]) -> dict[str, pa.Array]:
        at = None if self.places is None else rows_at(self.places.at(places))
        return {
            name: values.of(places) if isinstance(values, Sparse) else values.take(at)
            for name, values in self.columns.items()
        }


def _needed(places: Rest, columns: Mapping[str, pa.Array | Sparse]) -> Rest | None:
    """The places of rows, where a column has a value for each of them."""
    return None if all(isinstance(values, Sparse) for values in columns.values()) else places


def _drop_events(
    table: pa.RecordBatch, operator: str, drops: Mapping[int, Drop], guards: Sequence[Operator]
) -> list[Numbered]:
    """That rows at some indices go."""
    if not drops:
        return []
    gone = from_arrow(table.select(list(TALK_COLUMNS)).take(rows_at(np.fromiter(drops, np.int64, len(drops))))).rows
    begun = shown_openings([opening(row) for row in gone], guards)
    return [
        (row.n, drop_event(row, operator, drop, text))
        for row, drop, text in zip(gone, drops.values(), begun, strict=True)
    ]


def carried_out(
    spill: Spill, settled: Sequence[Settled], guards: Sequence[Operator]
) -> Iterator[tuple[Batch | pa.RecordBatch, list[Numbered]]]:
    """Read a pass's rows, and do to each what the set operators said about it."""
    edited = [one.edits for one in settled if one.edits]
    start = 0
    for table in spill.batches():
        places = np.arange(start, start + table.num_rows)
        start += table.num_rows
        if any(place in edits for edits in edited for place in places.tolist()):
            yield _taken_apart(table, places, settled, guards)
            continue
        events: list[Numbered] = []
        left = table
        for one in settled:
            left, made = one.carry_out(left, places, guards)
            places = places[one.drops.stay(places)] if made else places
            events += made
        yield left, sorted(events, key=lambda numbered: numbered[0])


def _taken_apart(
    table: pa.RecordBatch, places: NDArray[np.int64], settled: Sequence[Settled], guards: Sequence[Operator]
) -> tuple[Batch, list[Numbered]]:
    batch = from_arrow(table)
    place_of = {row.n: place for row, place in zip(batch.rows, places.tolist(), strict=True)}
    events: list[Numbered] = []
    for one in settled:
        outcome = one.outcome(np.array([place_of[row.n] for row in batch.rows], dtype=np.int64))
        batch, made = take(batch, one.one, outcome, guards)
        events += made
    return batch, sorted(events, key=lambda numbered: numbered[0])
