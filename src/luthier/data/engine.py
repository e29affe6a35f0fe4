"""Rows through operators: as few streaming passes as the recipe allows, in memory bounded by the batch.

Row operators that stand side by side share a pass. A set operator ends a pass: its sketches are gathered on the way,
it settles what becomes of each row, and the next pass carries that out while it reads. Passes meet on the disk. The
result depends neither on the batch size nor on the number of processes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.core.files import writing
from luthier.data.apply import Named, Numbered, category, run_row_operators, take
from luthier.data.operator import Column, Drop, Edit, Operator, Outcome, RowOperator, SetOperator
from luthier.data.row import Batch, Row
from luthier.data.tables import EventWriter, Spill, SpillWriter, from_arrow, spill_schema, to_arrow

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

BATCH_ROWS = 1024


class Fed(NamedTuple):
    """A batch that enters a pass, and the events that happened before it."""

    batch: Batch
    events: list[Numbered]


class Passed(NamedTuple):
    """A batch that has gone through a stage."""

    batch: Batch
    events: list[Numbered]
    sketches: list[bytes]
    """For each set operator, the batch's sketches end to end."""
    notes: list[str]


@dataclass(frozen=True)
class Stage:
    """Row operators that share a pass, and the set operators that end it."""

    rows: list[Named]
    sets: list[Named]
    guards: list[Operator]
    """Operators of the whole recipe that know what may not stand in clear."""

    def run(self, fed: Fed) -> Passed:
        """Take one batch through."""
        batch, events, notes = run_row_operators(fed.batch, self.rows, self.guards)
        events = sorted([*fed.events, *events], key=lambda numbered: numbered[0])
        sketches: list[bytes] = []
        for one in self.sets:
            assert isinstance(one.operator, SetOperator)
            sketches.append(b"".join(one.operator.sketch(batch.rows)))
        return Passed(batch, events, sketches, notes)


def stages(operators: Sequence[Named]) -> list[Stage]:
    """Cut a list of operators into stages; the last has no set operators, so that all is carried out.

    Set operators that stand side by side share a stage, unless one edits what the next would see.
    """
    guards = [one.operator for one in operators if type(one.operator).secrets is not Operator.secrets]
    found = [Stage([], [], guards)]
    for one, after in zip(operators, (*operators, None)[1:], strict=True):
        if isinstance(one.operator, RowOperator):
            found[-1].rows.append(one)
            continue
        found[-1].sets.append(one)
        done = after is None or isinstance(after.operator, RowOperator)
        if done or (isinstance(one.operator, SetOperator) and one.operator.rewrites):
            found.append(Stage([], [], guards))
    return found


class View:
    """All rows that are left after a pass, for one set operator."""

    def __init__(self, spill: Spill, places: NDArray[np.int64], sketches: NDArray[np.uint8]) -> None:
        self._spill = spill
        self._places = places
        self._sketches = sketches

    @property
    def sketches(self) -> NDArray[np.uint8]:
        """(rows, width), without the rows that an operator of the same pass has dropped."""
        whole = len(self._places) == len(self._sketches)
        return self._sketches if whole else self._sketches[self._places]

    def __len__(self) -> int:
        return len(self._places)

    def row(self, place: int) -> Row:
        """One row, read from the disk."""
        return self._spill.row(int(self._places[place]))

    def rows(self) -> Iterator[Row]:
        """All rows in order, streamed from the disk."""
        wanted = set(self._places.tolist()) if len(self._places) != self._spill.rows else None
        place = 0
        for table in self._spill.batches():
            for row in from_arrow(table).rows:
                if wanted is None or place in wanted:
                    yield row
                place += 1


@dataclass
class Settled:
    """What a set operator said, by places in the spill, to be carried out as the next pass reads."""

    one: Named
    edits: dict[int, list[Edit]]
    drops: dict[int, Drop]
    places: NDArray[np.int64]
    attributes: dict[str, Sequence[Any]]

    def outcome(self, places: Sequence[int]) -> Outcome:
        """The part that concerns the rows at these places of the spill."""
        at = np.searchsorted(self.places, np.asarray(places, dtype=np.int64))
        return Outcome(
            {index: self.edits[place] for index, place in enumerate(places) if place in self.edits},
            {index: self.drops[place] for index, place in enumerate(places) if place in self.drops},
            {name: [values[int(index)] for index in at] for name, values in self.attributes.items()},
        )


@dataclass
class Books:
    """What happened on the way: counts for the summary, and notes for the user."""

    dropped: Counter[str] = field(default_factory=Counter)
    edited: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)

    def enter(self, events: Iterable[Numbered]) -> None:
        """Count drops by reason and edited rows by operator."""
        edited: set[tuple[int, str]] = set()
        for number, event in events:
            if event.action == "drop":
                self.dropped[category(event.reason)] += 1
            else:
                edited.add((number, event.operator))
        self.edited.update(operator for _, operator in edited)


@dataclass
class Engine:
    """Takes rows through operators and leaves them on the disk."""

    operators: list[Named]
    scratch: Path
    events: EventWriter
    workers: int = 1
    tick: Callable[[int, int], None] = lambda done, stage: None
    """Told how many rows of which pass are through."""
    books: Books = field(default_factory=Books)

    def run(self, fed: Iterator[Fed]) -> Spill:
        """All passes; the last spill holds the rows that are left, with all attributes."""
        with writing(self.scratch):
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir(parents=True)
        columns: dict[str, Column] = {}
        plan = stages(self.operators)
        spill: Spill | None = None
        for index, stage in enumerate(plan):
            columns.update(_columns(stage.rows))
            before, (spill, settled) = spill, self._pass(index, stage, fed, columns)
            if before is not None:
                before.path.unlink()
            columns.update(_columns(stage.sets))
            fed = _carried_out(spill, settled, stage.guards)
        assert spill is not None
        return spill

    def _pass(
        self, index: int, stage: Stage, fed: Iterator[Fed], columns: dict[str, Column]
    ) -> tuple[Spill, list[Settled]]:
        writer = SpillWriter(self.scratch / f"pass{index}.arrow", spill_schema(columns))
        places = [self.scratch / f"pass{index}.{one.name}.sketch" for one in stage.sets]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(place.open("wb")) for place in places]
            for passed in _map(stage, fed, self.workers):
                writer.write(to_arrow(passed.batch, writer.schema))
                self._enter(passed)
                for file, sketches in zip(files, passed.sketches, strict=True):
                    with writing(self.scratch):
                        file.write(sketches)
                self.tick(writer.rows, index)
        spill = writer.close()
        return spill, self._settle(stage, spill, places)

    def _enter(self, passed: Passed) -> None:
        self.books.enter(passed.events)
        self.books.notes.update(dict.fromkeys(passed.notes))
        self.events.write([event for _, event in passed.events])

    def _settle(self, stage: Stage, spill: Spill, sketch_files: Sequence[Path]) -> list[Settled]:
        """Ask each set operator in turn; it sees only what those before it have left."""
        left = np.arange(spill.rows, dtype=np.int64)
        found: list[Settled] = []
        for one, path in zip(stage.sets, sketch_files, strict=True):
            assert isinstance(one.operator, SetOperator)
            outcome = one.operator.settle(View(spill, left, _sketches(path, spill.rows)))
            edits = {int(left[place]): edits for place, edits in outcome.edits.items()}
            drops = {int(left[place]): drop for place, drop in outcome.drops.items()}
            found.append(Settled(one, edits, drops, left, outcome.attributes))
            self.books.notes.update(dict.fromkeys(outcome.notes))
            left = np.delete(left, sorted(outcome.drops)) if outcome.drops else left
            path.unlink()
        return found


def _columns(operators: Sequence[Named]) -> dict[str, Column]:
    return {f"{one.name}.{name}": kind for one in operators for name, kind in one.operator.writes.items()}


def _sketches(path: Path, rows: int) -> NDArray[np.uint8]:
    size = path.stat().st_size
    if size == 0:
        return np.zeros((rows, 0), dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r", shape=(rows, size // rows))


def _carried_out(spill: Spill, settled: Sequence[Settled], guards: Sequence[Operator]) -> Iterator[Fed]:
    """Read a pass's rows, and do to each what the set operators said about it."""
    start = 0
    for table in spill.batches():
        batch = from_arrow(table)
        place_of = {row.n: start + index for index, row in enumerate(batch.rows)}
        start += table.num_rows
        events: list[Numbered] = []
        for one in settled:
            outcome = one.outcome([place_of[row.n] for row in batch.rows])
            batch, made = take(batch, one.one, outcome, guards)
            events += made
        yield Fed(batch, events)


def _map(stage: Stage, fed: Iterator[Fed], workers: int) -> Iterator[Passed]:
    """Take batches through a stage, in order, here or in worker processes."""
    if workers <= 1 or not (stage.rows or stage.sets):
        return map(stage.run, fed)
    return _map_in_processes(stage, fed, workers)


def _map_in_processes(stage: Stage, fed: Iterator[Fed], workers: int) -> Iterator[Passed]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    setup = json.dumps([[(one.name, one.operator.settings()) for one in part] for part in (stage.rows, stage.sets)])
    guards = json.dumps([guard.settings() for guard in stage.guards])
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_prepare_worker, initargs=(setup, guards)
    ) as pool:
        waiting: deque[Future[Passed]] = deque()
        for one in fed:
            waiting.append(pool.submit(_work, one))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_STAGE: list[Stage] = []
"""The stage of this worker process."""


def _prepare_worker(setup: str, guards: str) -> None:
    rows, sets = json.loads(setup)
    parts = [[Named(name, Operator.parse(settings)) for name, settings in part] for part in (rows, sets)]
    _STAGE[:] = [Stage(parts[0], parts[1], [Operator.parse(settings) for settings in json.loads(guards)])]


def _work(fed: Fed) -> Passed:
    return _STAGE[0].run(fed)
