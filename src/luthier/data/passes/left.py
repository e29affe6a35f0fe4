"""What is known of the rows that the operators left: keys for the split, answers, and which of them can be used."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import DataError, Where
from luthier.data.operator import Drop
from luthier.data.passes.apply import Numbered, drop_event
from luthier.data.passes.engine import Books
from luthier.data.passes.reader import unusable
from luthier.data.passes.spill import Spill
from luthier.data.passes.tables import EventWriter, from_arrow
from luthier.data.row import Row
from luthier.data.split import NAMES, NOT_TAKEN, Assigned, Keys, Split
from luthier.data.task import Answers, Task
from luthier.data.twins.text_keys import digest8, prompt_key

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Left:
    """What is known of the rows that the operators left, in order."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.usable = bytearray()
        self._prompts = array("Q")
        self._groups = array("Q")

    @classmethod
    def scan(cls, spill: Spill, split: Split, books: Books, events: EventWriter) -> Left:
        """Read the last pass once: keys for the split, answers, and rows that cleaning has emptied."""
        left = cls()
        for table in spill.batches():
            batch = from_arrow(table)
            clusters = [name for name in batch.attributes if name.endswith(".cluster")]
            in_clusters = split.group == "cluster"
            groups = batch.attributes[clusters[-1]] if in_clusters else [row.group for row in batch.rows]
            emptied: list[Numbered] = []
            for row, group in zip(batch.rows, groups, strict=True):
                if (reason := unusable(row)) is not None:
                    emptied.append((row.n, drop_event(row, "prepare", Drop(f"{reason} after cleaning"))))
                left._add(row, group, usable=reason is None)
            books.enter(emptied)
            events.write([event for _, event in emptied])
        if not any(left.usable):
            raise _nothing_left(books)
        return left

    def _add(self, row: Row, group: str | None, *, usable: bool) -> None:
        self.usable.append(usable)
        if usable:
            self._prompts.append(digest8(prompt_key(row)))
            self._groups.append(digest8(group) or 1 if group else 0)
            self.answers.add(row.answer, plain=row.kind == "chat" and len(row.prompt) > 0)

    def keys(self, task: Task) -> Keys:
        """What the split goes by."""
        labels = np.array(self.answers.of_rows, dtype=np.int32) if task == "label" else None
        prompts, groups = (np.frombuffer(keys, dtype=np.uint64) for keys in (self._prompts, self._groups))
        return Keys(prompts, groups, labels)

    def splits(self, assigned: Assigned) -> NDArray[np.int8]:
        """The split of every row of the spill; unusable rows are not taken."""
        found = np.full(len(self.usable), NAMES.index(NOT_TAKEN), dtype=np.int8)
        found[np.frombuffer(self.usable, dtype=bool)] = assigned.splits
        return found


def _nothing_left(books: Books) -> DataError:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(books.dropped.items()))
    remedy = "loosen the operator that drops most, or check the mapping of columns"
    return DataError(f"no row is left: {reasons}", where=Where(field="source"), remedy=remedy)
