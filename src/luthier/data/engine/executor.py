"""Rows through operators: as few streaming passes as the recipe allows, in memory bounded by the batch.

Row operators that stand side by side share a pass. A set operator ends a pass: its sketches are gathered on the way,
it settles what becomes of each row, and the next pass carries that out while it reads. Passes meet on the disk, where
they stay for the next time (`kept`). The result depends neither on the batch size nor on the number of processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from luthier.core.component import digest_plugin_code, iter_components
from luthier.core.hashing import digest_of
from luthier.core.revision import code_revision, installed_source_tree
from luthier.core.system.process import trim_malloc_heap
from luthier.data.dedup.shingles import ComplementIndexSet
from luthier.data.engine.batch import NamedOperator, Numbered, Tables, drop_category_of
from luthier.data.engine.cache import PassCache
from luthier.data.engine.columns import SketchWriter, map_remaining_sketches
from luthier.data.engine.corpus import SetOperatorResult, SpillCorpus, apply_set_operator_results
from luthier.data.engine.ray_workers import RayWorkers, run_ray_stage
from luthier.data.engine.reader import SourceReader, external_fingerprints
from luthier.data.engine.spill import Spill, SpillWriter, open_spill
from luthier.data.engine.stage import Stage, StageInput, StageOutput, run_stage, split_into_stages
from luthier.data.engine.tables import EventWriter, event_schema, event_table, release_arrow_memory, spill_schema
from luthier.data.engine.workers import Workers
from luthier.data.media.operator import MediaOperator
from luthier.data.media.scratch import MediaScratch
from luthier.data.operator import Operator, SetOperator

BATCH_ROWS = 1024


class _Keys(NamedTuple):
    """Digests of all that decides the rows and events of a pass, and then what each set operator says of them."""

    rows: str
    sets: list[str]


@dataclass
class PassStats:
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
                self.dropped[drop_category_of(event.reason)] += 1
            else:
                edited.add((number, event.operator))
        self.edited.update(operator for _, operator in edited)

    @classmethod
    def again(cls, state: Mapping[str, Any]) -> PassStats:
        """Those that were put down as plain values."""
        return cls(Counter(state["dropped"]), Counter(state["edited"]), dict.fromkeys(state["notes"]), state["counts"])

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"dropped": self.dropped, "edited": self.edited, "notes": list(self.notes), "counts": self.counts}

    def count(self, tables: Tables) -> None:
        """Add what operators counted."""
        for operator, table in tables.items():
            for what, location_counts in table.items():
                mine = self.counts.setdefault(operator, {}).setdefault(what, {})
                for location, number in location_counts.items():
                    mine[location] = mine.get(location, 0) + number


@dataclass
class OperatorEngine:
    """Takes rows through operators and leaves them on the disk."""

    operators: list[NamedOperator]
    kept: PassCache
    """Where passes meet, and stay for the next time."""
    events: EventWriter
    workers: Workers = field(default_factory=Workers)
    ray_workers: RayWorkers | None = None
    """Take batches through operators in place of `workers`, where there are some."""
    recipe_dir: Path = Path()
    """The recipe's folder, for operators that read files."""
    answers: Path | None = None
    """Where operators find again what models answered."""
    media: MediaScratch | None = None
    """Where operators find the bytes of pictures and sounds, where one of them looks at those."""
    tick: Callable[[int, int], None] = lambda done, stage: None
    """Told how many rows of which pass are through."""
    settling: Callable[[str, int, int], None] = lambda operator, done, total: None
    """Told of how many rows an operator that sees all of them has judged, and of how many there are."""
    stats: PassStats = field(default_factory=PassStats)
    kept_passes: int = 0
    """How many passes were kept, so that they were not made again."""
    taken_over: list[str] = field(default_factory=list)
    """Operators that did not run for that reason."""

    def run(self, reader: SourceReader) -> Spill:
        """All passes but those that are kept; the last spill holds the rows that are left, with all attributes."""
        cut = split_into_stages(self.operators, self.recipe_dir, self.answers, self.media)
        keys = self._keys(cut, reader.identity or uuid4().hex)
        may_stay = [_may_stay(cut[n + 1 :]) for n in range(len(cut))]
        kept_state = self.kept.begin([key.rows for key in keys], may_stay, is_private=not _may_stay(cut))
        self.kept_passes = kept_count = len(self.kept)
        if kept_state is not None:
            reader.again(kept_state["reader"])
            self.stats = PassStats.again(kept_state["books"])
            over = [(*stage.rows, *stage.sets) for stage in cut[: kept_count - 1]] + [tuple(cut[kept_count - 1].rows)]
            self.taken_over = [named_operator.name for stage in over for named_operator in stage]
        spill = open_spill(self.kept.rows(kept_count - 1)) if kept_count else None
        if spill is not None and any(stage.reads_media for stage in cut[kept_count:]):
            done = [named_operator.operator for stage in cut[:kept_count] for named_operator in stage.rows]
            reader.intake.read_again([operator for operator in done if isinstance(operator, MediaOperator)])
        for number in range(kept_count, len(cut)):
            fed = reader.batches() if spill is None else self._carried_out(number - 1, cut, keys, spill)
            spill = self._pass(number, cut[number], fed)
            self.kept.add(keys[number].rows, {"reader": reader.as_dict(), "books": self.stats.as_dict()})
        assert spill is not None
        for number in range(len(cut)):
            self.events.add(open_spill(self.kept.events(number)).batches())
        return spill

    def _keys(self, cut: Sequence[Stage], source: str) -> list[_Keys]:
        guards = [self._identity(guard) for guard in cut[0].guards]
        known = digest_of([source, code_revision(__name__, *installed_source_tree().role_modules["Source"]), guards])
        keys: list[_Keys] = []
        for stage in cut:
            known = digest_of([known, *([row.name, self._identity(row.operator)] for row in stage.rows)])
            keys.append(_Keys(known, []))
            for named_operator in stage.sets:
                known = digest_of([known, named_operator.name, self._identity(named_operator.operator)])
                keys[-1].sets.append(known)
        return keys

    def _identity(self, operator: Operator) -> list[Any]:
        """What it is set to, what it reads from outside, and its code."""
        own = code_revision(*sorted({type(part).__module__ for part in iter_components(operator)}))
        return [
            operator.settings(),
            external_fingerprints(operator, self.recipe_dir) or uuid4().hex,
            own,
            digest_plugin_code(operator),
        ]

    def _pass(self, number: int, stage: Stage, fed: Iterator[StageInput]) -> Spill:
        writer = SpillWriter(self.kept.rows(number), spill_schema(stage.columns))
        events = SpillWriter(self.kept.events(number), event_schema())
        with SketchWriter([self._sketches(number, named_operator) for named_operator in stage.sets]) as sketches:
            for passed in self._run_stage(stage, fed):
                writer.write(passed.table)
                self._enter(passed, events)
                sketches.write(passed.sketches)
                self.tick(writer.rows, number)
        events.close()
        spill = writer.close()
        trim_malloc_heap()
        release_arrow_memory()
        return spill

    def _run_stage(self, stage: Stage, fed: Iterator[StageInput]) -> Iterator[StageOutput]:
        if self.ray_workers is not None and (stage.rows or stage.sets) and not stage.reads_media:
            return run_ray_stage(stage, fed, self.ray_workers)
        return run_stage(stage, fed, self.workers)

    def _enter(self, passed: StageOutput, events: SpillWriter) -> None:
        self.stats.enter(passed.events)
        self.stats.notes.update(dict.fromkeys(passed.notes))
        self.stats.count(passed.counts)
        if passed.events:
            events.write(event_table([event for _, event in passed.events]))

    def _carried_out(
        self, number: int, cut: Sequence[Stage], keys: Sequence[_Keys], spill: Spill
    ) -> Iterator[StageInput]:
        """The rows of a pass, with what the set operators that end it say of them carried out."""
        stage, sets = cut[number], list(zip(cut[number].sets, keys[number].sets, strict=True))
        known = {entry.name for entry, key in sets if self.kept.has_settled(number, entry.name, key)}
        self._sketch(
            number, stage, [named_operator for named_operator in stage.sets if named_operator.name not in known], spill
        )
        left = ComplementIndexSet(spill.rows)
        settled: list[SetOperatorResult] = []
        for entry, key in sets:
            path = self.kept.settled(number, entry.name)
            if entry.name in known:
                operator_result = SetOperatorResult.read(path, entry, left)
                self.taken_over.append(entry.name)
            else:
                operator_result = self._settled(entry, spill, left, self._sketches(number, entry))
                operator_result.write(path)
                self.kept.add_settled(number, entry.name, key)
            self.stats.notes.update(dict.fromkeys(operator_result.notes))
            self.stats.count({entry.name: operator_result.counts})
            left = left.without(operator_result.drops.indices)
            settled.append(operator_result)
        return (StageInput(rows, events) for rows, events in apply_set_operator_results(spill, settled, stage.guards))

    def _sketches(self, number: int, one: NamedOperator) -> Path:
        return self.kept.folder / f"pass{number}.{one.name}.sketch"

    def _sketch(self, number: int, stage: Stage, sets: Sequence[NamedOperator], spill: Spill) -> None:
        """Sketch rows that another making has left, where a set operator asks for it."""
        pending = [named_operator for named_operator in sets if not self._sketches(number, named_operator).is_file()]
        if not pending:
            return
        sketch_stage = replace(stage, rows=[], sets=pending)
        with SketchWriter([self._sketches(number, named_operator) for named_operator in pending]) as sketches:
            fed = (StageInput(table, []) for table in spill.batches())
            for passed in self._run_stage(sketch_stage, fed):
                sketches.write(passed.sketches)

    def _settled(self, one: NamedOperator, spill: Spill, left: ComplementIndexSet, sketches: Path) -> SetOperatorResult:
        """Ask a set operator; it sees only what those before it have left."""
        assert isinstance(one.operator, SetOperator)
        tick = partial(self.settling, one.name)
        view = SpillCorpus(spill, left, map_remaining_sketches(sketches, spill.rows, left), tick, self.workers)
        operator_result = SetOperatorResult.of(one, left, one.operator.settle(view))
        trim_malloc_heap()
        sketches.unlink()
        return operator_result


def _may_stay(ahead: Sequence[Stage]) -> bool:
    """Whether rows before these stages may stay on the disk: what is private has been taken out of them."""
    return not any(row.operator.is_private for stage in ahead for row in stage.rows)
