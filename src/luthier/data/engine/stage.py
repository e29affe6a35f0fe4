"""One pass over rows: the row operators that share it, and the sketches for the set operators that end it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.data.engine.batch import SOURCE, NamedOperator, Numbered, Tables, redact_openings, run_row_operators
from luthier.data.engine.spill import PackedEvents, TupleBatch, pack, pack_events, unpack, unpack_events
from luthier.data.engine.tables import (
    batch_from_arrow,
    deserialize_arrow_batch,
    serialize_arrow_batch,
    spill_schema,
    to_arrow,
)
from luthier.data.engine.workers import Workers
from luthier.data.media.operator import MediaOperator
from luthier.data.media.scratch import MediaScratch
from luthier.data.operator import Column, Operator, RowOperator, SetOperator
from luthier.data.row import Batch

if TYPE_CHECKING:
    import pyarrow as pa


class StageInput(NamedTuple):
    """Rows that enter a pass, and the events that happened before it."""

    rows: Batch | pa.RecordBatch
    events: list[Numbered]

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process, it goes as plain values: as objects, rows take several times as long."""
        rows = pack(self.rows) if isinstance(self.rows, Batch) else serialize_arrow_batch(self.rows)
        return _fed_again, (rows, pack_events(self.events))


class StageOutput(NamedTuple):
    """Rows that have gone through a stage."""

    table: pa.RecordBatch
    events: list[Numbered]
    sketches: list[bytes]
    """For each set operator, the batch's sketches end to end."""
    notes: list[str]
    counts: Tables

    def __reduce__(self) -> tuple[Any, ...]:
        """From another process, it comes as Arrow writes rows, and events as plain values."""
        return _passed_again, (serialize_arrow_batch(self.table), pack_events(self.events), *self[2:])


def _fed_again(rows: TupleBatch | bytes, events: PackedEvents) -> StageInput:
    return StageInput(deserialize_arrow_batch(rows) if isinstance(rows, bytes) else unpack(rows), unpack_events(events))


def _passed_again(table: bytes, events: PackedEvents, *rest: Any) -> StageOutput:
    return StageOutput(deserialize_arrow_batch(table), unpack_events(events), *rest)


@dataclass(frozen=True)
class Stage:
    """Row operators that share a pass, and the set operators that end it."""

    rows: list[NamedOperator]
    sets: list[NamedOperator]
    guards: list[Operator]
    """Operators of the whole recipe that know what may not stand in clear."""
    columns: dict[str, Column]
    """Attributes of rows that leave it."""
    recipe_dir: Path = Path()
    """The recipe's folder, for operators that read files."""
    kept: Path | None = None
    """Where operators find again what models answered."""
    media: MediaScratch | None = None
    """Where operators find the bytes of pictures and sounds."""

    @property
    def reads_media(self) -> bool:
        """Whether an operator needs the bytes of pictures or sounds."""
        return any(isinstance(named_operator.operator, MediaOperator) for named_operator in self.rows)

    def run(self, fed: StageInput) -> StageOutput:
        """Take one batch through."""
        if not isinstance(fed.rows, Batch) and not (self.rows or self.sets):
            return StageOutput(fed.rows, fed.events, [], [], {})
        before = fed.rows if isinstance(fed.rows, Batch) else batch_from_arrow(fed.rows)
        batch, made, notes, counts = run_row_operators(before, self.rows, self.guards)
        events = sorted([*self._guarded(fed.events), *made], key=lambda numbered: numbered[0])
        sketches: list[bytes] = []
        for named_operator in self.sets:
            assert isinstance(named_operator.operator, SetOperator)
            sketches.append(b"".join(named_operator.operator.sketch(batch.rows)))
        untouched = not isinstance(fed.rows, Batch) and not self.rows
        table = fed.rows if untouched else to_arrow(batch, spill_schema(self.columns))
        return StageOutput(table, events, sketches, notes, counts)

    def _guarded(self, events: Sequence[Numbered]) -> list[Numbered]:
        """Events of rows that the reader left out, with no more of their texts than may be shown."""
        bare = [at for at, (_, event) in enumerate(events) if event.operator == SOURCE and event.text]
        found = list(events)
        for at, text in zip(bare, redact_openings([events[at][1].text or "" for at in bare], self.guards), strict=True):
            found[at] = (events[at][0], events[at][1]._replace(text=text))
        return found


def split_into_stages(
    operators: Sequence[NamedOperator],
    recipe_dir: Path = Path(),
    kept: Path | None = None,
    media: MediaScratch | None = None,
) -> list[Stage]:
    """Cut a list of operators into stages; the last has no set operators, so that all is carried out.

    Set operators that stand side by side share a stage, unless one edits what the next would see.
    """
    guards = select_privacy_operators(operators)
    stages = [Stage([], [], guards, {}, recipe_dir, kept, media)]
    for operator, after in zip(operators, (*operators, None)[1:], strict=True):
        if isinstance(operator.operator, RowOperator):
            stages[-1].rows.append(operator)
            stages[-1].columns.update(attribute_columns_of(operator))
            continue
        stages[-1].sets.append(operator)
        done = after is None or isinstance(after.operator, RowOperator)
        if done or (isinstance(operator.operator, SetOperator) and operator.operator.rewrites):
            last = stages[-1]
            settled = {name: kind for each in last.sets for name, kind in attribute_columns_of(each).items()}
            stages.append(Stage([], [], guards, {**last.columns, **settled}, recipe_dir, kept, media))
    return stages


def bind_operator(operator: Operator, recipe_dir: Path, kept: Path | None, media: MediaScratch | None) -> Operator:
    """The operator with the folders that it reads and keeps files in, and the media of the run."""
    bound = operator.at(recipe_dir, kept)
    return bound.with_scratch(media) if isinstance(bound, MediaOperator) else bound


def select_privacy_operators(operators: Sequence[NamedOperator]) -> list[Operator]:
    """Return the operators that remove personal data or know which spans must be redacted in events."""
    found = (operator.operator for operator in operators)
    return [operator for operator in found if operator.is_private or type(operator).secrets is not Operator.secrets]


def attribute_columns_of(one: NamedOperator) -> Mapping[str, Column]:
    """The attribute columns that an operator writes, by their whole names."""
    return {f"{one.name}.{name}": kind for name, kind in one.operator.writes.items()}


def run_stage(stage: Stage, fed: Iterator[StageInput], workers: Workers) -> Iterator[StageOutput]:
    """Take batches through a stage, in order, here or in worker processes."""
    if workers.count <= 1 or not (stage.rows or stage.sets):
        return map(stage.run, fed)
    setup = dump_stage(stage)
    return workers.map(_run, ((setup, stage_input) for stage_input in fed))


def dump_stage(stage: Stage) -> str:
    """All of a stage as a text, from which another process makes it anew."""
    parts = [
        [(named_operator.name, named_operator.operator.settings()) for named_operator in part]
        for part in (stage.rows, stage.sets)
    ]
    media = None if stage.media is None else str(stage.media.folder)
    paths = [str(stage.recipe_dir), None if stage.kept is None else str(stage.kept), media]
    return json.dumps([*parts, [guard.settings() for guard in stage.guards], stage.columns, *paths])


@lru_cache(maxsize=1)
def load_stage(setup: str) -> Stage:
    """The stage that `dump_stage` wrote; the last one is kept."""
    rows, sets, guards, columns, base, kept, folder = json.loads(setup)
    paths = Path(base), None if kept is None else Path(kept)
    media = None if folder is None else MediaScratch(Path(folder))
    parts = [
        [NamedOperator(name, bind_operator(Operator.parse(settings), *paths, media)) for name, settings in part]
        for part in (rows, sets)
    ]
    made = {
        json.dumps(named_operator.operator.settings()): named_operator.operator
        for part in parts
        for named_operator in part
    }
    looking = [made.get(json.dumps(settings)) or Operator.parse(settings).at(*paths) for settings in guards]
    return Stage(parts[0], parts[1], looking, columns, *paths, media)


def _run(setup: str, fed: StageInput) -> StageOutput:
    return load_stage(setup).run(fed)
