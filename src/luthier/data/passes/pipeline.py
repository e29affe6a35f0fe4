"""The whole way from a source to a data set's files, with books that balance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from luthier.core.counted import by_name, counted, of_rows
from luthier.core.errors import DataError, Where
from luthier.core.process import release_memory, reuse_memory
from luthier.core.step import Work
from luthier.data.operator import Drop, Operator
from luthier.data.passes.apply import drop_event, named
from luthier.data.passes.collector import quiet_collector
from luthier.data.passes.columns import places
from luthier.data.passes.crossing import leave_out
from luthier.data.passes.engine import BATCH_ROWS, Books, Engine
from luthier.data.passes.kept import Kept
from luthier.data.passes.last_look import last_look
from luthier.data.passes.left import Left
from luthier.data.passes.reader import Reader
from luthier.data.passes.result import Result
from luthier.data.passes.spill import Spill
from luthier.data.passes.tables import EventWriter, from_arrow
from luthier.data.passes.workers import Workers
from luthier.data.source import HAS_ANSWER, Source
from luthier.data.split import NAMES, NOT_TAKEN, TRAIN, Assigned, Split, assign
from luthier.data.task import Answers, Task
from luthier.text.dataset import DatasetSummary, Rightness, SourceCount
from luthier.text.dropped import place_in_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHOWN = 3
"""Classes that a warning names."""
_TICK_S = 0.2


@dataclass(frozen=True)
class Options:
    """What changes neither rows nor bytes (batches, processes), and how the task is decided."""

    batch_rows: int = BATCH_ROWS
    workers: int = 1
    task: Literal["auto", "label", "text"] = "auto"
    min_classes: int = 2


class Prepared(NamedTuple):
    """What became of a source."""

    rows: int
    """That went in."""
    is_anew: bool
    """Whether all passes were made, rather than some of them taken over from before."""


def prepare(source: Source, operators: Sequence[Operator], split: Split, work: Work, options: Options) -> Prepared:
    """Write a data set into `work.folder`; the passes on the way are kept in `work.kept` for the next time."""
    reuse_memory()
    rows_of = grouped(source, split)
    reader = Reader(rows_of, work.base, work.events.note, batch_rows=options.batch_rows, scratch=work.scratch)
    home = work.kept / "passes" if work.kept is not None and reader.identity is not None else None
    kept = Kept(work.scratch / "passes", home)
    chosen = named([operator.at(work.base, work.kept) for operator in operators])
    ticker = _Ticker(work, reader)
    try:
        with quiet_collector(), Workers(options.workers, kept.folder) as workers:
            events = EventWriter(work.folder / "events.parquet")
            engine = Engine(chosen, kept, events, workers, work.base, work.kept, ticker, ticker.settling)
            return _prepare(engine, reader, split, work, options)
    finally:
        kept.put_back()


def _prepare(engine: Engine, reader: Reader, split: Split, work: Work, options: Options) -> Prepared:
    spill, books = engine.run(reader), engine.books
    left = Left.scan(spill, split, books, engine.events, engine.workers)
    last_look(spill, engine.operators, books, engine.workers)
    task = _decide_task(left, options, work)
    if task == "label" and reader.source.system:
        _warn_of_classes(_system_of(spill) or reader.source.system, left.answers.labels, work)
    assigned = assign(split, left.keys(task), work.seed)
    if split.train != 0:
        _check_train(assigned.splits, assigned.notes)
    _drop_not_taken(spill, left, assigned, books, engine.events)
    splits = leave_out(spill, left.splits(assigned), engine.operators, books, engine.events)
    if split.train != 0:
        _check_train(splits, ["every training row repeats a row that is held out"])
    engine.events.close()
    release_memory()
    result = Result(spill, splits, task, engine.operators)
    result.write(work.folder, engine.workers)
    measured = {one.name: proof for one in engine.operators if (proof := one.operator.prove(work.base))}
    summary = _summary(reader, result, books, left.answers if task == "label" else None, measured)
    summary.write(work.folder)
    if (broken := reader.first_broken) is not None:
        where = place_in_file(broken.file, broken.line, broken.row)
        work.events.warning(f"left out, and listed by `luthier show --dropped`: {where}: {broken.problem}")
    if reader.unwanted:
        what = f"{of_rows(reader.unwanted, reader.rows, 'has', 'have')} `label: false`: answers that nobody wants"
        how = "ops: [{kind: schema, columns: {label: {allowed: [true]}}}]"
        work.events.warning(f"{what}; `sft` learns nothing from them, evaluations would hold them right: {how}")
    for column, rows in sorted(reader.media.items()):
        what = f"{counted(rows, 'row holds', 'rows hold')} {column} (`meta.{column}`), which models here do not see"
        work.events.warning(
            f"{what}: the text has marks in their place; set `media: drop` in the source to leave such rows out"
        )
    if engine.begun:
        work.events.note(f"reused from an earlier run: {', '.join(('reading', *engine.taken_over))}")
    _speak(work, summary, books, assigned)
    return Prepared(reader.rows, not engine.begun)


def grouped(source: Source, split: Split) -> Source:
    """The source that reads the split's group column, when the split names one."""
    if split.group in (None, "cluster", source.group):
        return source
    return source.model_copy(update={"group": split.group})


class _Ticker:
    """Reports progress a few times a second."""

    def __init__(self, work: Work, reader: Reader) -> None:
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


def _decide_task(left: Left, options: Options, work: Work) -> Task:
    asked, decision = options.task, left.answers.decide()
    if asked == "auto":
        work.events.note(f"task: {decision.task} ({decision.why})")
    task: Task = decision.task if asked == "auto" else asked
    answers = left.answers
    if task == "label" and answers.is_given_up:
        remedy = "set `task: text`, or map `answer` to the column with the class"
        raise DataError(
            f"task is label, but there are more than {answers.distinct - 1} different answers",
            where=Where(field="task"),
            remedy=remedy,
        )
    if task == "label" and 0 < answers.distinct < options.min_classes:
        message = f"expected {options.min_classes} classes (min_classes), got {answers.distinct}"
        if answers.distinct == 1:
            message = f"all {answers.rows} rows have the same answer, {answers.labels[0]!r}"
            message += ": there is nothing to tell apart"
        fewest = "two" if options.min_classes == 2 else f"{options.min_classes}"
        remedy = f"give rows of at least {fewest} classes, or set `task: text`; where a step `mix` adds the rows to "
        remedy += f"others, set `min_classes: {answers.distinct}`"
        raise DataError(message, where=Where(field="answer"), remedy=remedy)
    return task


def _warn_of_classes(system: str, labels: Sequence[str], work: Work) -> None:
    """Say which classes a system turn leaves out that names most of them, such as one that came with newer rows."""
    left_out = [label for label in labels if label not in system]
    if left_out and len(left_out) * 2 < len(labels):
        shown = ", ".join(map(repr, left_out[:_SHOWN])) + (", …" if len(left_out) > _SHOWN else "")
        what = f"`system` names {len(labels) - len(left_out)} of {len(labels)} classes, not {shown}"
        work.events.warning(f"{what}: add what is new to it, or bring spellings together with `label_spelling`")


def _system_of(spill: Spill) -> str:
    """The system turn of the first row, as operators left it."""
    turn = spill.said(0).messages[0]
    return turn.content if turn.role == "system" else ""


def _check_train(splits: NDArray[np.int8], notes: Sequence[str]) -> None:
    if not (splits == NAMES.index(TRAIN)).any():
        why = f" ({'; '.join(notes)})" if notes else ""
        remedy = "hold fewer rows out, or allow more to train on; rows with one prompt or group stay together"
        raise DataError(f"no row is left to train on{why}", where=Where(field="split"), remedy=remedy)


def _drop_not_taken(spill: Spill, left: Left, assigned: Assigned, books: Books, events: EventWriter) -> None:
    """List the rows that the split did not ask for."""
    taken = left.splits(assigned)
    usable = np.frombuffer(left.usable, dtype=bool)
    at = 0
    for table in spill.batches():
        wanted = np.flatnonzero(
            (taken[at : at + table.num_rows] == NAMES.index(NOT_TAKEN)) & usable[at : at + table.num_rows]
        )
        at += table.num_rows
        if len(wanted):
            rows = from_arrow(table.take(places(wanted))).rows
            made = [(row.n, drop_event(row, "split", Drop("not sampled"))) for row in rows]
            books.enter(made)
            events.write([event for _, event in made])


def _summary(
    reader: Reader, result: Result, books: Books, labels: Answers | None, measured: dict[str, dict[str, Rightness]]
) -> DatasetSummary:
    sources = [SourceCount(source=reader.kind, file=file, rows=rows) for file, rows in reader.files.items()]
    return DatasetSummary(
        rows_in=reader.rows,
        rows={name: result.count(name) for name in result.names()},
        dropped=dict(sorted(books.dropped.items())),
        edited=dict(sorted(books.edited.items())),
        task=result.task,
        labels=sorted(labels.labels) if labels else [],
        sources=sources,
        counts={name: table for name, table in books.counts.items() if table},
        measured=measured,
    )


def _speak(work: Work, summary: DatasetSummary, books: Books, assigned: Assigned) -> None:
    """Tell the user what was found and decided."""
    for note in (*books.notes, *assigned.notes):
        work.events.note(note)
    rows = ", ".join(f"{count} {name}" for name, count in summary.rows.items())
    dropped = sum(summary.dropped.values())
    why = f" ({by_name(summary.dropped)})" if dropped else ""
    work.events.note(f"{counted(summary.rows_in, 'row')} in: {rows}, {dropped} dropped{why}")
    if dropped * 2 > summary.rows_in and {"not sampled", HAS_ANSWER}.isdisjoint(summary.dropped):
        work.events.warning(f"more than half of the rows were dropped{why}")
