"""The rows that remain after the operators: keys for the split, answers, and which can be used."""

from __future__ import annotations

import tempfile
import weakref
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.chat.messages import ExampleKind
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counts_by_name
from luthier.core.files import translate_write_errors
from luthier.data.dedup.shingles import digest8, prompt_key
from luthier.data.engine.batch import Numbered, drop_event
from luthier.data.engine.executor import PassStats
from luthier.data.engine.reader import why_unusable
from luthier.data.engine.spill import Spill
from luthier.data.engine.tables import TALK_COLUMNS, EventWriter, batch_from_arrow
from luthier.data.engine.workers import Workers
from luthier.data.operator import Drop
from luthier.data.split import NAMES, NOT_TAKEN, Split, SplitAssignment, SplitKeys
from luthier.data.task import AnswerCounter, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RemainingRows:
    """What is known of the rows that the operators left, in order."""

    def __init__(self, scratch: Path | None = None) -> None:
        """`scratch` is where files may lie until the split is decided; None: where the system keeps such files."""
        self.answers = AnswerCounter()
        self.usable = bytearray()
        self._prompts = _Digests(scratch)
        self._groups = _Digests(scratch)

    @classmethod
    def scan(cls, spill: Spill, split: Split, stats: PassStats, events: EventWriter, workers: Workers) -> RemainingRows:
        """Read the last pass once: keys for the split, answers, and rows that cleaning has emptied."""
        left = cls(spill.path.parent)
        jobs = ((spill, index, split.group == "cluster", not left.answers.is_settled) for index in range(len(spill)))
        for batch in workers.map(_looked_at, jobs):
            left._add(batch)
            stats.enter(batch.emptied)
            events.write([event for _, event in batch.emptied])
        if not any(left.usable):
            raise _nothing_left(stats)
        return left

    def _add(self, found: _Batch) -> None:
        self.usable += found.usable
        self._prompts.add(found.prompts)
        self._groups.add(found.groups)
        if found.answers is None:
            self.answers.pass_over(len(found.prompts))
            return
        for answer, kind in found.answers:
            self.answers.add(answer, kind)

    def keys(self, task: Task) -> SplitKeys:
        """What the split goes by; it is given out once, and not held on to."""
        labels = np.array(self.answers.of_rows, dtype=np.int32) if task == "label" else None
        return SplitKeys(self._prompts.taken(), self._groups.taken(), labels)

    def splits(self, assigned: SplitAssignment) -> NDArray[np.int8]:
        """The split of every row of the spill; unusable rows are not taken."""
        found = np.full(len(self.usable), NAMES.index(NOT_TAKEN), dtype=np.int8)
        found[np.frombuffer(self.usable, dtype=bool)] = assigned.splits
        return found


class _Digests:
    """A 64-bit digest of each row, in a file."""

    def __init__(self, scratch: Path | None) -> None:
        self._place = scratch or Path(tempfile.gettempdir())
        self._file = tempfile.TemporaryFile(dir=scratch, prefix="luthier.keys.")  # noqa: SIM115 - closed when it is taken
        self._closing = weakref.finalize(self, self._file.close)

    def add(self, digests: array[int]) -> None:
        """Add those of some more rows."""
        with translate_write_errors(self._place):
            self._file.write(digests)

    def taken(self) -> NDArray[np.uint64]:
        """All of them, mapped from the disk; no more can be added."""
        with translate_write_errors(self._place):
            self._file.flush()
        found: NDArray[np.uint64] = np.memmap(self._file, dtype=np.uint64, mode="r").view(np.ndarray)
        self._closing()
        return found


class _Batch(NamedTuple):
    """What is known of the rows of one batch."""

    usable: bytes
    """One byte a row."""
    prompts: array[int]
    """Of usable rows alone, as what follows."""
    groups: array[int]
    answers: list[tuple[str, ExampleKind]] | None
    """Each answer, and the kind of its row; None: nobody wants to know any more."""
    emptied: list[Numbered]


def _looked_at(spill: Spill, index: int, in_clusters: bool, wants_answers: bool) -> _Batch:
    """Look at one batch of a spill."""
    table = spill.batch(index)
    clusters = [name for name in table.schema.names if name.endswith(".cluster")]
    batch = batch_from_arrow(table.select([*TALK_COLUMNS, *clusters]))
    reasons = [why_unusable(row) for row in batch.rows]
    rows = [row for row, reason in zip(batch.rows, reasons, strict=True) if reason is None]
    groups = batch.attributes[clusters[-1]] if in_clusters else [row.group for row in batch.rows]
    kept = (group for group, reason in zip(groups, reasons, strict=True) if reason is None)
    return _Batch(
        bytes(reason is None for reason in reasons),
        array("Q", (digest8(prompt_key(row)) for row in rows)),
        array("Q", (digest8(group) or 1 if group else 0 for group in kept)),
        [(row.answer, row.kind if row.prompt else "completion") for row in rows] if wants_answers else None,
        [
            (row.n, drop_event(row, "prepare", Drop(f"{reason} after cleaning")))
            for row, reason in zip(batch.rows, reasons, strict=True)
            if reason is not None
        ],
    )


def _nothing_left(stats: PassStats) -> DataError:
    reasons = format_counts_by_name(dict(sorted(stats.dropped.items())))
    hint = "loosen the operator that drops most, or check the mapping of columns"
    return DataError(f"no row is left: {reasons}", where=SourceLocation(field="source"), hint=hint)
