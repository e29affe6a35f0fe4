"""Merged cells of a sheet: a value that stands for several rows, and rows that only group the columns of a header."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

_NAME_CHARS = 64
"""A longer text names no column."""
_HIGHEST = 20
"""Rows from the top among which a header is looked for."""


class MergedCells(NamedTuple):
    """A block of cells that were merged into one, by places in the table, the last ones included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def is_across(self) -> bool:
        """Whether it spans columns of one row."""
        return self.right > self.left and self.top == self.bottom


Ranges = Sequence[tuple[tuple[int, int], tuple[int, int]]]
"""As calamine tells them: first and last cell, each by row and column of the sheet from 0."""


def find_merged_cells(
    ranges: Ranges | None, table: Sequence[Sequence[Any]], start: tuple[int, int]
) -> list[MergedCells]:
    """Where cells were merged in a table that begins at a cell of the sheet; no two of them overlap in a column."""
    row, column = start
    height, width = len(table), len(table[0]) if table else 0
    merged_cellses: list[MergedCells] = []
    ends: dict[int, int] = {}  # the last merged row of each column, as far as blocks begin there
    for (top, left), (bottom, right) in sorted(ranges or ()):
        one = MergedCells(top - row, left - column, min(bottom - row, height - 1), min(right - column, width - 1))
        if one.top >= 0 and 0 <= one.left <= one.right and ends.get(one.left, -1) < one.top <= one.bottom:
            merged_cellses.append(one)
            ends[one.left] = one.bottom
    return merged_cellses


def fill_down(table: list[list[Any]], blocks: Sequence[MergedCells]) -> int:
    """Give every row of a column's merged cells their value; returns how many got it."""
    filled = 0
    for block in blocks:
        value = table[block.top][block.left]
        for row in table[block.top + 1 : block.bottom + 1] if block.left == block.right and value != "" else ():
            row[block.left], filled = value, filled + 1
    return filled


def find_group_header_rows(table: Sequence[Sequence[Any]], blocks: Sequence[MergedCells]) -> dict[int, list[Any]]:
    """Rows that group the columns named in the row below, with the group of each column.

    Such a row has cells merged across columns, each of which the row below names apart, by a short text of its own.
    """
    found: dict[int, list[Any]] = {}
    of_row: dict[int, list[MergedCells]] = {}
    for block in blocks:
        if block.is_across and block.top < min(_HIGHEST, len(table) - 1):
            of_row.setdefault(block.top, []).append(block)
    for top, across in of_row.items():
        row, below = list(table[top]), table[top + 1]
        covered: set[int] = set()
        for block in across:
            indices = range(block.left, block.right + 1)
            if block.left not in covered:
                row[block.left : block.right + 1] = [row[block.left]] * len(indices)
                covered.update(indices)
        names = [below[index] for index in covered]
        named = all(isinstance(name, str) and 0 < len(name.strip()) <= _NAME_CHARS for name in names)
        if named and len({*row} - {""}) > 1 and 2 * len(covered) >= sum(cell != "" for cell in below):
            found[top] = row
    return found


def disambiguate_columns(names: Sequence[Any], group: Sequence[Any]) -> list[Any]:
    """Names of columns, with their group in front where two are alike."""
    return [
        f"{above} {name}" if names.count(name) > 1 and above not in ("", name) else name
        for name, above in zip(names, group, strict=True)
    ]
