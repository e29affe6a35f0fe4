"""Run a source through the operators, split the rows and write the files of a data set.

The counts of rows read, dropped and written balance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from luthier.artifacts.dataset import DatasetSummary, PrecisionRecall, SourceFileSummary
from luthier.artifacts.findings import format_file_location
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun, format_counts_by_name, format_rows_affected
from luthier.core.step import StepContext
from luthier.core.system.process import raise_malloc_thresholds, trim_malloc_heap
from luthier.data.engine.batch import SOURCE, NamedOperator, drop_event, name_operators
from luthier.data.engine.cache import PassCache
from luthier.data.engine.columns import to_arrow_column, to_arrow_indices, to_arrow_mask
from luthier.data.engine.executor import BATCH_ROWS, OperatorEngine, PassStats
from luthier.data.engine.final_check import refuse_leftover_pii
from luthier.data.engine.ray_workers import RayWorkers
from luthier.data.engine.reader import SourceReader
from luthier.data.engine.remaining import RemainingRows
from luthier.data.engine.spill import Spill
from luthier.data.engine.split_leakage import drop_leaking_train_rows
from luthier.data.engine.stage import bind_operator
from luthier.data.engine.tables import (
    EXAMPLE_COLUMNS,
    TALK_COLUMNS,
    EventWriter,
    TableWriter,
    batch_from_arrow,
    example_schema,
)
from luthier.data.engine.workers import Workers, relaxed_garbage_collection
from luthier.data.media.operator import MediaOperator
from luthier.data.operator import Drop, Operator
from luthier.data.source import HAS_ANSWER, Source
from luthier.data.split import NAMES, NOT_TAKEN, TEST, TRAIN, VALIDATION, Split, SplitAssignment, assign_splits
from luthier.data.task import AnswerCounter, Task

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass
class SplitResult:
    """The rows of each split, and how they are written."""

    spill: Spill
    splits: NDArray[np.int8]
    task: Task
    operators: list[NamedOperator]

    def names(self) -> list[str]:
        """Splits that have rows."""
        return [name for name in (TRAIN, VALIDATION, TEST) if self.count(name)]

    def count(self, name: str) -> int:
        """Rows of a split."""
        return int((self.splits == NAMES.index(name)).sum())

    def write(self, folder: Path, workers: Workers) -> None:
        """Examples by split, and attributes by operator; each file is written for itself, by whichever process."""
        jobs: list[tuple[Any, ...]] = [
            (_write_examples, folder / "examples" / f"{name}.parquet", self.spill, self._in(name), self.task)
            for name in self.names()
        ]
        taken = self.splits != NAMES.index(NOT_TAKEN)
        for operator in self.operators:
            if operator.operator.writes:
                path = folder / "attributes" / f"{operator.name}.parquet"
                jobs.append((_write_attributes, path, self.spill, taken, operator.name))
        for _ in workers.map(_done, jobs):
            pass

    def _in(self, name: str) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.splits == NAMES.index(name)
        return found


def _done(job: Callable[..., None], *values: Any) -> None:
    job(*values)


def _write_examples(path: Path, spill: Spill, keep: NDArray[np.bool_], task: Task) -> None:
    writer = TableWriter(path, example_schema())
    for table in _chosen(spill, keep):
        writer.write(_examples(table, task))
    writer.close()


def _write_attributes(path: Path, spill: Spill, keep: NDArray[np.bool_], operator: str) -> None:
    writer = TableWriter(path, _attribute_schema(spill.schema, operator))
    names = ["id", *(f"{operator}.{name}" for name in writer.schema.names[1:])]
    for table in _chosen(spill, keep, names):
        writer.write(table.rename_columns(writer.schema.names))
    writer.close()


def _chosen(spill: Spill, keep: NDArray[np.bool_], names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows that are wanted, batch by batch, with the columns that are named or all."""
    at = 0
    for table in spill.batches():
        mine = keep[at : at + table.num_rows]
        at += table.num_rows
        if mine.any():
            yield (table if names is None else table.select(list(names))).filter(to_arrow_mask(mine))


def _examples(table: pa.RecordBatch, task: Task) -> pa.RecordBatch:
    """The columns of examples; of labelled rows, the answer once more as the label."""
    import pyarrow as pa

    own = {"label": to_arrow_column([None] * table.num_rows, pa.string())}
    if task == "label":
        rows = batch_from_arrow(table.select(list(TALK_COLUMNS))).rows
        own["label"] = to_arrow_column([row.answer for row in rows], pa.string())
        own["kind"] = to_arrow_column(["label"] * len(rows), pa.string())
    columns = [own[name] if name in own else table.column(name) for name in EXAMPLE_COLUMNS]
    return pa.RecordBatch.from_arrays(columns, schema=example_schema())


def _attribute_schema(spill: pa.Schema, operator: str) -> pa.Schema:
    import pyarrow as pa

    own = [field for field in spill if field.name.startswith(f"{operator}.")]
    return pa.schema([("id", pa.string()), *((field.name.split(".", 1)[1], field.type) for field in own)])


_SHOWN = 3
"""Classes that a warning names."""
_TICK_S = 0.2


@dataclass(frozen=True)
class PrepareOptions:
    """What changes neither rows nor bytes (batches, processes), and how the task is decided."""

    batch_rows: int = BATCH_ROWS
    workers: int = 1
    task: Literal["auto", "label", "text"] = "auto"
    min_classes: int = 2


class PrepareResult(NamedTuple):
    """What became of a source."""

    rows: int
    """That went in."""
    is_anew: bool
    """Whether all passes were made, rather than some of them taken over from before."""


def prepare(
    source: Source, operators: Sequence[Operator], split: Split, work: StepContext, options: PrepareOptions
) -> PrepareResult:
    """Write a data set into `work.folder`; the passes on the way are kept in `work.kept` for the next time."""
    raise_malloc_thresholds()
    rows_of = with_split_group(source, split)
    reader = SourceReader(
        rows_of, work.recipe_dir, work.events.note, batch_rows=options.batch_rows, scratch=work.scratch
    )
    home = work.kept / "passes" if work.kept is not None and reader.identity is not None else None
    pass_cache = PassCache(work.scratch / "passes", home)
    media = reader.intake.share() if any(isinstance(operator, MediaOperator) for operator in operators) else None
    chosen = name_operators([bind_operator(operator, work.recipe_dir, work.kept, media) for operator in operators])
    ticker = _Ticker(work, reader)
    try:
        with relaxed_garbage_collection(), Workers(options.workers, pass_cache.folder) as workers:
            events = EventWriter(work.folder / "events.parquet")
            ray_workers = RayWorkers.of_job(work.events.warning)
            engine = OperatorEngine(
                chosen,
                pass_cache,
                events,
                workers,
                ray_workers,
                work.recipe_dir,
                work.kept,
                media,
                ticker,
                ticker.settling,
            )
            return _prepare(engine, reader, split, work, options)
    finally:
        pass_cache.put_back()
        reader.intake.close()


def _prepare(
    engine: OperatorEngine, reader: SourceReader, split: Split, work: StepContext, options: PrepareOptions
) -> PrepareResult:
    spill, stats = engine.run(reader), engine.stats
    left = RemainingRows.scan(spill, split, stats, engine.events, engine.workers)
    refuse_leftover_pii(spill, engine.operators, stats, engine.workers)
    task = _decide_task(left, options, work)
    if task == "label" and reader.source.system:
        _warn_of_classes(_system_of(spill) or reader.source.system, left.answers.labels, work)
    assigned = assign_splits(split, left.keys(task), work.seed)
    if split.train != 0:
        _check_train(assigned.splits, assigned.notes)
    _drop_not_taken(spill, left, assigned, stats, engine.events)
    splits = drop_leaking_train_rows(spill, left.splits(assigned), engine.operators, stats, engine.events)
    if split.train != 0:
        _check_train(splits, ["every training row repeats a row that is held out"])
    engine.events.close()
    trim_malloc_heap()
    result = SplitResult(spill, splits, task, engine.operators)
    result.write(work.folder, engine.workers)
    if reader.media_read:
        looking = [one.operator for one in engine.operators if isinstance(one.operator, MediaOperator)]
        reader.intake.write(work.folder, spill, splits != NAMES.index(NOT_TAKEN), looking)
    measured = {
        operator.name: proof for operator in engine.operators if (proof := operator.operator.prove(work.recipe_dir))
    }
    summary = _summary(reader, result, stats, left.answers if task == "label" else None, measured)
    summary.write(work.folder)
    if (broken := reader.first_broken) is not None:
        where = format_file_location(broken.file, broken.line, broken.row)
        work.events.warning(f"left out, and listed by `luthier show --dropped`: {where}: {broken.problem}")
    if reader.unwanted:
        affected = format_rows_affected(reader.unwanted, reader.rows, "has", "have")
        what = f"{affected} `label: false`: answers that nobody wants"
        how = "ops: [{kind: schema, columns: {label: {allowed: [true]}}}]"
        work.events.warning(f"{what}; `sft` learns nothing from them, evaluations would hold them right: {how}")
    for medium, rows in sorted(reader.media.items()):
        what = f"{format_counted_noun(rows, 'row holds', 'rows hold')} {medium} (`meta.{medium}`)"
        work.events.warning(
            f"{what}, which are not read: the text has marks in their place; "
            "set `media: read` in the source to read them, or `media: drop` to leave such rows out"
        )
    if reader.media_read:
        work.events.note(f"read {_format_media(reader.media_read)}")
    if metadata := reader.intake.metadata:
        found = ", ".join(f"{name} of {_format_media(counts)}" for name, counts in sorted(metadata.items()))
        work.events.note(f"metadata in files of media, not kept: {found}")
    if engine.kept_passes:
        work.events.note(f"reused from an earlier run: {', '.join(('reading', *engine.taken_over))}")
    _speak(work, summary, stats, assigned)
    return PrepareResult(reader.rows, not engine.kept_passes)


def _format_media(counts: Mapping[str, int]) -> str:
    names = {"image": "picture", "audio": "sound"}
    return " and ".join(format_counted_noun(count, names[kind]) for kind, count in sorted(counts.items()))


def with_split_group(source: Source, split: Split) -> Source:
    """The source that reads the split's group medium, when the split names one."""
    if split.group in (None, "cluster", source.group):
        return source
    return source.model_copy(update={"group": split.group})


class _Ticker:
    """Reports progress a few times a second."""

    def __init__(self, work: StepContext, reader: SourceReader) -> None:
        self._work = work
        self._reader = reader
        self._last = time.perf_counter()

    def __call__(self, done: int, stage: int) -> None:
        """Called after each batch of pass number `stage`."""
        if self._is_time():
            total = 0 if stage == 0 else self._reader.rows
            self._work.events.progress(done, total, "rows", **{"pass": stage + 1})

    def settling(self, operator: str, done: int, total: int) -> None:
        """Called by an operator that takes long over all rows."""
        if self._is_time():
            self._work.events.progress(done, total, "rows", operator=operator)

    def _is_time(self) -> bool:
        now = time.perf_counter()
        if now - self._last < _TICK_S:
            return False
        self._last = now
        return True


def _decide_task(left: RemainingRows, options: PrepareOptions, work: StepContext) -> Task:
    requested, decision = options.task, left.answers.decide()
    if requested == "auto":
        work.events.note(f"task: {decision.task} ({decision.why})")
    task: Task = decision.task if requested == "auto" else requested
    answers = left.answers
    if task == "label" and answers.is_given_up:
        hint = "set `task: text`, or map `answer` to the column with the class"
        raise DataError(
            f"task is label, but there are more than {answers.distinct - 1} different answers",
            where=SourceLocation(field="task"),
            hint=hint,
        )
    if task == "label" and 0 < answers.distinct < options.min_classes:
        message = f"expected {options.min_classes} classes (min_classes), got {answers.distinct}"
        if answers.distinct == 1:
            message = f"all {answers.rows} rows have the same answer, {answers.labels[0]!r}"
            message += ": there is nothing to tell apart"
        fewest = "two" if options.min_classes == 2 else f"{options.min_classes}"
        hint = f"give rows of at least {fewest} classes, or set `task: text`; where a step `mix` adds the rows to "
        hint += f"others, set `min_classes: {answers.distinct}`"
        raise DataError(message, where=SourceLocation(field="answer"), hint=hint)
    return task


def _warn_of_classes(system: str, labels: Sequence[str], work: StepContext) -> None:
    """Say which classes a system turn leaves out that names most of them, such as one that came with newer rows."""
    left_out = [label for label in labels if label not in system]
    if left_out and len(left_out) * 2 < len(labels):
        shown = ", ".join(map(repr, left_out[:_SHOWN])) + (", …" if len(left_out) > _SHOWN else "")
        what = f"`system` names {len(labels) - len(left_out)} of {len(labels)} classes, not {shown}"
        work.events.warning(f"{what}: add what is new to it, or bring spellings together with `label_spelling`")


def _system_of(spill: Spill) -> str:
    """The system turn of the first row, as operators left it."""
    turn = spill.message_row(0).messages[0]
    return turn.content if turn.role == "system" else ""


def _check_train(splits: NDArray[np.int8], notes: Sequence[str]) -> None:
    if not (splits == NAMES.index(TRAIN)).any():
        why = f" ({'; '.join(notes)})" if notes else ""
        hint = "hold fewer rows out, or allow more to train on; rows with one prompt or group stay together"
        raise DataError(f"no row is left to train on{why}", where=SourceLocation(field="split"), hint=hint)


def _drop_not_taken(
    spill: Spill, left: RemainingRows, assigned: SplitAssignment, stats: PassStats, events: EventWriter
) -> None:
    """List the rows that the split did not ask for."""
    taken = left.splits(assigned)
    usable = np.frombuffer(left.usable, dtype=bool)
    at = 0
    for table in spill.batches():
        not_sampled = np.flatnonzero(
            (taken[at : at + table.num_rows] == NAMES.index(NOT_TAKEN)) & usable[at : at + table.num_rows]
        )
        at += table.num_rows
        if len(not_sampled):
            rows = batch_from_arrow(table.take(to_arrow_indices(not_sampled))).rows
            made = [(row.n, drop_event(row, "split", Drop("not sampled"))) for row in rows]
            stats.enter(made)
            events.write([event for _, event in made])


def _summary(
    reader: SourceReader,
    result: SplitResult,
    stats: PassStats,
    labels: AnswerCounter | None,
    measured: dict[str, dict[str, PrecisionRecall]],
) -> DatasetSummary:
    sources = [SourceFileSummary(source=reader.kind, file=file, rows=rows) for file, rows in reader.files.items()]
    return DatasetSummary(
        rows_in=reader.rows,
        rows={name: result.count(name) for name in result.names()},
        dropped=dict(sorted(stats.dropped.items())),
        edited=dict(sorted(stats.edited.items())),
        task=result.task,
        labels=sorted(labels.labels) if labels else [],
        sources=sources,
        counts={name: table for name, table in [(SOURCE, reader.metadata), *stats.counts.items()] if table},
        measured=measured,
    )


def _speak(work: StepContext, summary: DatasetSummary, stats: PassStats, assigned: SplitAssignment) -> None:
    """Tell the user what was found and decided."""
    for note in (*stats.notes, *assigned.notes):
        work.events.note(note)
    rows = ", ".join(f"{count} {name}" for name, count in summary.rows.items())
    dropped = sum(summary.dropped.values())
    why = f" ({format_counts_by_name(summary.dropped)})" if dropped else ""
    work.events.note(f"{format_counted_noun(summary.rows_in, 'row')} in: {rows}, {dropped} dropped{why}")
    if dropped * 2 > summary.rows_in and {"not sampled", HAS_ANSWER}.isdisjoint(summary.dropped):
        work.events.warning(f"more than half of the rows were dropped{why}")
