"""Counts that may be summed over several places: groups of cells, and what is done where a cell holds few rows.

Each row adds one to one cell of a group at most. So a group tells nothing but a histogram, sums over places are those
of all rows together, and one row more or less moves each group by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class CountGroup(NamedTuple):
    """The cells of one histogram."""

    name: str
    cells: tuple[str, ...]
    ordered: bool = False
    """Whether cells lie in an order, as bins of a number do: small ones then join their neighbours."""


Counts = Mapping[str, Mapping[str, int]]
"""By group and cell; cells that are missing hold nothing."""


def flatten_counts(groups: Sequence[CountGroup], counts: Counts) -> list[int]:
    """The counts of all cells in their order."""
    return [counts.get(group.name, {}).get(cell, 0) for group in groups for cell in group.cells]


def shape_counts(groups: Sequence[CountGroup], numbers: Iterable[int]) -> dict[str, dict[str, int]]:
    """Numbers in the order of all cells, as counts; `ValueError` for more or fewer of them."""
    found, rest = dict[str, dict[str, int]](), iter(numbers)
    for group in groups:
        found[group.name] = dict(zip(group.cells, rest, strict=False))
        if len(found[group.name]) < len(group.cells):
            raise ValueError("there are fewer numbers than cells")
    if next(rest, None) is not None:
        raise ValueError("there are more numbers than cells")
    return found


def add_counts(groups: Sequence[CountGroup], several: Iterable[Counts]) -> dict[str, dict[str, int]]:
    """The sum of several counts, cell by cell."""
    flat = [flatten_counts(groups, counts) for counts in several]
    return shape_counts(groups, [sum(cells) for cells in zip(*flat, strict=True)] if flat else [])


def move_small_counts(groups: Sequence[CountGroup], counts: Counts, least: int) -> dict[str, dict[str, int]]:
    """The counts with each cell below `least` emptied, and its rows counted in the largest cell of its group; where
    cells have an order, in the next cell above by which there are enough, or else in the last that is told.

    A cell that tells 0 holds 0 to `least - 1` rows; which, no difference of other cells tells. A group of fewer rows
    than `least` tells nothing. Quantiles and means of cells in an order stay near those of all rows.
    """
    found = dict[str, dict[str, int]]()
    for group in groups:
        mine = {cell: counts.get(group.name, {}).get(cell, 0) for cell in group.cells}
        largest = max(group.cells, key=lambda cell: mine[cell], default="")
        small = [cell for cell in group.cells if mine[cell] < least and cell != largest]
        total = sum(mine.values())
        if total < least:
            found[group.name] = dict.fromkeys(group.cells, 0)
            continue
        if group.ordered:
            found[group.name] = dict(zip(group.cells, _join_neighbours(list(mine.values()), least), strict=True))
            continue
        moved = sum(mine[cell] for cell in small)
        found[group.name] = {**mine, **dict.fromkeys(small, 0), largest: mine[largest] + moved}
    return found


def _join_neighbours(cells: Sequence[int], least: int) -> list[int]:
    """Counts of cells in an order, which hold `least` rows together, so that each is 0 or at least that."""
    moved, waiting, last = [0] * len(cells), 0, 0
    for at, count in enumerate(cells):
        waiting += count
        if waiting >= least:
            moved[at], waiting, last = waiting, 0, at
    moved[last] += waiting
    return moved


WIDTHS = (1.05, 64)
"""Bins of lengths: one for each number up to 64, then each 5 % wider than the one before."""


def list_bins(most: int = 100_000) -> tuple[int, ...]:
    """The lower ends of bins of whole numbers, from 0."""
    ratio, exact = WIDTHS
    ends = list(range(exact + 1))
    while ends[-1] < most:
        ends.append(max(ends[-1] + 1, round(ends[-1] * ratio)))
    return tuple(ends)


def find_bin(value: float, ends: Sequence[float]) -> int:
    """The place of the bin that holds a value: the last whose lower end is not above it."""
    from bisect import bisect_right

    return max(0, bisect_right(ends, value) - 1)


def quantile_of_bins(counts: Sequence[int], ends: Sequence[float], part: float) -> float:
    """The lower end of the bin that holds a quantile, as numpy's method `lower` has it of whole numbers."""
    total = sum(counts)
    rank, before = int(part * (total - 1)) if total else 0, 0
    for count, end in zip(counts, ends, strict=True):
        before += count
        if before > rank:
            return end
    return 0
