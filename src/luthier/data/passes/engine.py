"""Rows through operators: as few streaming passes as the recipe allows, in memory bounded by the batch.

Row operators that stand side by side share a pass. A set operator ends a pass: its sketches are gathered on the way,
it settles what becomes of each row, and the next pass carries that out while it reads. Passes meet on the disk. The
result depends neither on the batch size nor on the number of processes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.files import writing
from luthier.core.process import release_memory
from luthier.data.operator import SetOperator
from luthier.data.passes.apply import Named, Numbered, Tables, category
from luthier.data.passes.corpus import Settled, View, carried_out
from luthier.data.passes.spill import Spill, SpillWriter
from luthier.data.passes.stage import Fed, Passed, Stage, stages, through
from luthier.data.passes.tables import EventWriter, give_back, spill_schema
from luthier.data.passes.workers import Workers
from luthier.data.twins.mapped import let_go
from luthier.data.twins.places import Rest

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_ROWS = 1024
_ROWS_AT_ONCE = 1 << 16
"""Of sketches."""


@dataclass
class Books:
    """What happened on the way: counts for the summary, and notes for the user."""

    dropped: Counter[str] = field(default_factory=Counter)
    edited: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)
    counts: Tables = field(default_factory=dict)

    def enter(self, events: Iterable[Numbered]) -> None:
        """Count drops by reason and edited rows by operator."""
        edited: set[tuple[int, str]] = set()
        for number, event in events:
            if event.action == "drop":
                self.dropped[category(event.reason)] += 1
            else:
                edited.add((number, event.operator))
        self.edited.update(operator for _, operator in edited)

    def count(self, tables: Tables) -> None:
        """Add what operators counted."""
        for operator, table in tables.items():
            for what, places in table.items():
                mine = self.counts.setdefault(operator, {}).setdefault(what, {})
                for place, number in places.items():
                    mine[place] = mine.get(place, 0) + number


@dataclass
class Engine:
    """Takes rows through operators and leaves them on the disk."""

    operators: list[Named]
    scratch: Path
    events: EventWriter
    workers: Workers = field(default_factory=Workers)
    base: Path = Path()
    """The recipe's folder, for operators that read files."""
    tick: Callable[[int, int], None] = lambda done, stage: None
    """Told how many rows of which pass are through."""
    settling: Callable[[str, int, int], None] = lambda operator, done, total: None
    """Told of how many rows an operator that sees all of them has judged, and of how many there are."""
    books: Books = field(default_factory=Books)

    def run(self, fed: Iterator[Fed]) -> Spill:
        """All passes; the last spill holds the rows that are left, with all attributes."""
        with writing(self.scratch):
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir(parents=True)
        spill: Spill | None = None
        for index, stage in enumerate(stages(self.operators, self.base)):
            before, (spill, settled) = spill, self._pass(index, stage, fed)
            if before is not None:
                before.path.unlink()
            fed = (Fed(rows, events) for rows, events in carried_out(spill, settled, stage.guards))
        assert spill is not None
        return spill

    def _pass(self, index: int, stage: Stage, fed: Iterator[Fed]) -> tuple[Spill, list[Settled]]:
        writer = SpillWriter(self.scratch / f"pass{index}.arrow", spill_schema(stage.columns))
        places = [self.scratch / f"pass{index}.{one.name}.sketch" for one in stage.sets]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(place.open("wb")) for place in places]
            for passed in through(stage, fed, self.workers):
                writer.write(passed.table)
                self._enter(passed)
                for file, sketches in zip(files, passed.sketches, strict=True):
                    with writing(self.scratch):
                        file.write(sketches)
                self.tick(writer.rows, index)
        spill = writer.close()
        release_memory()
        give_back()
        return spill, self._settle(stage, spill, places)

    def _enter(self, passed: Passed) -> None:
        self.books.enter(passed.events)
        self.books.notes.update(dict.fromkeys(passed.notes))
        self.books.count(passed.counts)
        self.events.write([event for _, event in passed.events])

    def _settle(self, stage: Stage, spill: Spill, sketch_files: Sequence[Path]) -> list[Settled]:
        """Ask each set operator in turn; it sees only what those before it have left."""
        left = Rest(spill.rows)
        found: list[Settled] = []
        for one, path in zip(stage.sets, sketch_files, strict=True):
            assert isinstance(one.operator, SetOperator)
            tick = partial(self.settling, one.name)
            outcome = one.operator.settle(View(spill, left, _sketches(path, spill.rows, left), tick, self.workers))
            found.append(Settled.of(one, left, outcome))
            self.books.notes.update(dict.fromkeys(outcome.notes))
            self.books.count({one.name: outcome.counts})
            del outcome  # the next operator has the room
            release_memory()
            left = left.without(found[-1].drops.places)
            path.unlink()
        return found


def _sketches(path: Path, rows: int, left: Rest) -> NDArray[np.uint8]:
    """The sketches of the rows that are left, mapped from the disk; those of other rows are taken out of the file."""
    width = path.stat().st_size // max(rows, 1)
    if width == 0 or len(left) == 0:
        return np.zeros((len(left), width), dtype=np.uint8)
    if len(left) < rows:
        whole = np.memmap(path, dtype=np.uint8, mode="r", shape=(rows, width))
        picked = path.with_suffix(".left")
        with writing(picked), picked.open("wb") as file:
            for start in range(0, len(left), _ROWS_AT_ONCE):
                file.write(whole[left[start : start + _ROWS_AT_ONCE]].tobytes())
                let_go(whole)
        picked.replace(path)
    return np.memmap(path, dtype=np.uint8, mode="r", shape=(len(left), width))
