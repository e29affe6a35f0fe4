"""Judgments as numbers: who gave which item which category, and the counts that coefficients are made of."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.metrics.distance import Weights, agreements
from luthier.metrics.resample import Block, Floats

Judged = Hashable | None
Table = Sequence[Sequence[Judged]]
"""(items, annotators); None where there is no judgment."""


@dataclass(frozen=True)
class Coded:
    """A table as numbers of categories, -1 for what is missing; only items with two judgments and more, or with one."""

    codes: NDArray[np.int64]
    """(items, annotators)."""
    categories: list[Any]
    """In their order."""

    @classmethod
    def of(cls, table: Table, *, least: int = 2) -> Coded:
        """Read a table, items with at least so many judgments; `DataError` when nothing in it can be compared."""
        if len({len(row) for row in table}) > 1:
            raise DataError("rows of judgments have different lengths", remedy="give one column an annotator")
        seen = [[value for value in row if value is not None] for row in table]
        values = {value for row in seen for value in row}
        if not any(len(row) > 1 for row in seen):
            raise DataError("no item was judged by two annotators", remedy="let some items be judged twice")
        if len(values) < 2:
            what = f"all judgments are {next(iter(values))!r}: agreement beyond chance cannot be told"
            raise DataError(what, remedy="let items of other categories be judged, too")
        categories = _sorted(values)
        number = {value: at for at, value in enumerate(categories)}
        kept = [row for row, judged in zip(table, seen, strict=True) if len(judged) >= least]
        codes = np.array([[-1 if value is None else number[value] for value in row] for row in kept], dtype=np.int64)
        return cls(codes, categories)

    @property
    def counts(self) -> Floats:
        """(items, categories): how many annotators chose each."""
        items, number = len(self.codes), len(self.categories)
        places = (self.codes + np.arange(items)[:, None] * number)[self.codes >= 0]
        return np.bincount(places, minlength=items * number).reshape(items, number).astype(np.float64)

    def equal_pairs(self, weights: Weights) -> list[Block]:
        """(items, 2): one, and the mean agreement of the item's pairs; nothing of an item that has none."""
        counts = self.counts
        many = counts.sum(axis=1)
        alike = (counts * (counts @ agreements(weights, self.categories) - 1)).sum(axis=1)
        return [np.stack([(many > 1).astype(np.float64), alike / np.maximum(many * (many - 1), 1)], axis=1)]

    def confusions(self, first: int, second: int) -> Block:
        """(items, categories²): which categories two annotators chose, where both judged."""
        from scipy.sparse import csr_matrix

        one, two = self.codes[:, first], self.codes[:, second]
        rows = np.flatnonzero((one >= 0) & (two >= 0))
        number = len(self.categories)
        places = one[rows] * number + two[rows]
        return csr_matrix((np.ones(len(rows)), (rows, places)), shape=(len(self.codes), number**2))


def _sorted(values: set[Any]) -> list[Any]:
    """Numbers by size, everything else by its text."""
    plain = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return sorted(values) if plain else sorted(values, key=str)
