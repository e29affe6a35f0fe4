"""A few rows in memory, seen by a set operator as it sees a corpus on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from luthier.data.operator import SetOperator
from luthier.data.row import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray


Asked = TypeVar("Asked")
Made = TypeVar("Made")


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

    def judged(
        self, job: Callable[[list[Row], Asked], Made], requests: Iterable[tuple[Sequence[int], Asked]]
    ) -> Iterator[Made]:
        """What a job makes of rows at some places, here."""
        return (job([self._rows[index] for index in indices], value) for indices, value in requests)

    def made(self, job: Callable[..., Made], arg_tuples: Iterable[tuple[Any, ...]]) -> Iterator[Made]:
        """What a job makes of each, here."""
        return starmap(job, arg_tuples)

    @property
    def scratch(self) -> Path | None:
        """A few rows leave no files worth a folder."""
        return None

    def tick(self, done: int, total: int) -> None:
        """A few rows are done at once."""
