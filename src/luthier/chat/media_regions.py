"""Regions of an image that each of its features covers, by the processor's layout."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

_TILE = re.compile(r"<row_(\d{1,3})_col_(\d{1,3})>")
"""What Idefics3 and SmolVLM write before the features of a tile of a picture; before those of the whole, something
else."""


class Region(NamedTuple):
    """A rectangle, in shares of a picture's width and height; beyond 0 and 1 where a processor pads the picture."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Its share of the picture."""
        return (self.right - self.left) * (self.bottom - self.top)

    def cut(self, rows: int, columns: int) -> list[Region]:
        """Equal parts of it, row by row."""
        ys = [self.top + (self.bottom - self.top) * row / rows for row in range(rows + 1)]
        xs = [self.left + (self.right - self.left) * column / columns for column in range(columns + 1)]
        return [Region(xs[c], ys[r], xs[c + 1], ys[r + 1]) for r in range(rows) for c in range(columns)]


WHOLE = Region(0.0, 0.0, 1.0, 1.0)


def find_visible_region(image_processor: Any, width: int, height: int) -> Region:
    """The part of a picture that a processor keeps, where it crops the middle of what it has resized."""
    if not getattr(image_processor, "do_center_crop", None):
        return WHOLE
    size, crop = dict(image_processor.size), dict(image_processor.crop_size)
    wide, high = float(width), float(height)
    if image_processor.do_resize:
        shortest = size.get("shortest_edge")
        scale = shortest / min(wide, high) if shortest else 1.0
        wide, high = (wide * scale, high * scale) if shortest else (float(size["width"]), float(size["height"]))
    x, y = crop["width"] / wide, crop["height"] / high
    return Region((1 - x) / 2, (1 - y) / 2, (1 + x) / 2, (1 + y) / 2)


def locate_features(text: str, feature: str, grid: Sequence[int], visible: Region) -> list[Region]:
    """The region of each feature of a picture, in order.

    `text` is what the processor writes for the picture, with `feature` for each of them; `grid` has frames, rows and
    columns, or zeros. Features of an unknown layout lie in the whole picture, each of them.
    """
    if any(grid):
        return visible.cut(grid[1], grid[2])
    runs = _list_runs(text, feature)
    tiles = [_TILE.search(before) for before, _ in runs]
    numbers = [(int(tile[1]), int(tile[2])) if tile else (0, 0) for tile in tiles]
    rows, columns = (max(own) for own in zip(*numbers, strict=True))
    if rows and columns:
        parts = visible.cut(rows, columns)
        return [
            region
            for (row, column), (_, count) in zip(numbers, runs, strict=True)
            for region in _cut_square(parts[(row - 1) * columns + column - 1] if row else visible, count)
        ]
    if len(runs) > 1 and len({count for _, count in runs}) == 1 and _are_rows([before for before, _ in runs[1:]]):
        return visible.cut(len(runs), runs[0][1])
    return [
        region for _, count in runs for region in (_cut_square(visible, count) if len(runs) == 1 else [visible] * count)
    ]


def _list_runs(text: str, feature: str) -> list[tuple[str, int]]:
    """Features that follow one another: what stands before them, and how many they are."""
    number, numbers, befores = 0, list[int](), dict[int, str]()
    for at, before in enumerate(text.split(feature)[:-1]):
        number += bool(before) and at > 0
        numbers.append(number)
        befores.setdefault(number, before)
    return [(befores[run], len(list(own))) for run, own in groupby(numbers)]


def _are_rows(separators: Sequence[str]) -> bool:
    """Whether one and the same token stands between runs: Pixtral ends each row of a picture so."""
    return len(set(separators)) == 1 and not any(char.isspace() for char in separators[0])


def _cut_square(region: Region, count: int) -> list[Region]:
    side = math.isqrt(count)
    return region.cut(side, side) if side * side == count else [region] * count
