"""Bar charts: counts in parts, and the flow of rows into what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.eval.report.charts.drawing import LETTER, STRONG_LETTER, SvgDrawing, truncate_to_width
from luthier.eval.report.formatting import format_percentage, format_thousands

NARROW = 480


class Bar(NamedTuple):
    """One row: its name, the sizes of its parts in order, and what is written at its end."""

    label: str
    parts: tuple[int, ...]
    value_text: str


def draw_bar_chart(rows: Sequence[Bar], *, width: int, name: str, title: str, desc: str) -> str:
    """The picture as SVG text; parts take the classes `part0`, `part1`, …"""
    narrow = width < NARROW
    tall = 36 if narrow else 24
    drawing = SvgDrawing(width, tall * len(rows) + 4, name=name, title=title, desc=desc)
    left, right = (0.0, float(width)) if narrow else (_left(rows, width), width - 110.0)
    most = max((sum(row.parts) for row in rows), default=1) or 1
    for at, row in enumerate(rows):
        top = at * tall
        words = top + (14 if narrow else 16)
        drawing.text(0, words, truncate_to_width(row.label, width - 160 if narrow else left - 16), "label")
        drawing.text(width, words, row.value_text, "value", "end")
        _parts(drawing, row, left, (right - left) / most, top + (20 if narrow else 6))
    return str(drawing)


def _left(rows: Sequence[Bar], width: int) -> float:
    return min(max((len(row.label) for row in rows), default=0) * LETTER + 20, width * 0.38)


def _parts(drawing: SvgDrawing, row: Bar, left: float, pixels: float, top: float) -> None:
    for at, part in enumerate(row.parts):
        drawing.rect(left, top, part * pixels, 11, f"part{at}")
        left += part * pixels


BAR = 12
"""Width of the bars, px."""


class FlowBranch(NamedTuple):
    """A part of the rows: what it is called, how many, and its colour class."""

    label: str
    rows: int
    kind: str


def draw_flow_chart(branches: Sequence[FlowBranch], *, width: int, name: str, desc: str) -> str:
    """Ribbons from all rows to each branch, in proportion, each labelled at its end."""
    total = sum(branch.rows for branch in branches)
    tall = 150.0
    tops, height = _tops([tall * branch.rows / total if total else 0.0 for branch in branches])
    drawing = SvgDrawing(width, max(height, tall) + 26, name=name, title="What became of every row", desc=desc)
    end = width * (0.32 if width < 480 else 0.6)
    drawing.text(0, 14, f"{format_thousands(total)} rows in", "label strong")
    drawing.rect(0, 24, BAR, tall, "ink")
    _ribbons(drawing, branches, tops, tall, end)
    return str(drawing)


def _ribbons(drawing: SvgDrawing, branches: Sequence[FlowBranch], tops: list[float], tall: float, end: float) -> None:
    total = sum(branch.rows for branch in branches) or 1
    from_y = 24.0
    for branch, top in zip(branches, tops, strict=True):
        thick = tall * branch.rows / total
        to_y, drawn = top + 24, max(thick, 1.5)
        middle = (BAR + end) / 2
        data = (
            f"M{BAR} {from_y:.1f}C{middle:.1f} {from_y:.1f} {middle:.1f} {to_y:.1f} {end:.1f} {to_y:.1f}"
            f"V{to_y + drawn:.1f}C{middle:.1f} {to_y + drawn:.1f} {middle:.1f} {from_y + drawn:.1f} "
            f"{BAR} {from_y + drawn:.1f}Z"
        )
        value_text = f"{format_thousands(branch.rows)} ({format_percentage(branch.rows, total)})"
        drawing.path(data, f"ribbon {branch.kind}", f"{branch.label}: {value_text}")
        drawing.rect(end, to_y, BAR, drawn, f"end {branch.kind}")
        middle_y = to_y + drawn / 2
        drawing.text(
            end + BAR + 8,
            middle_y - 2,
            truncate_to_width(branch.label, drawing.width - end - BAR - 8, STRONG_LETTER),
            "label strong",
        )
        drawing.text(end + BAR + 8, middle_y + 13, value_text, "tick")
        from_y += thick


def _tops(heights: list[float]) -> tuple[list[float], float]:
    """Where each branch begins, so that neither bars nor their two lines of words overlap; and the height used."""
    tops: list[float] = []
    free = 0.0
    for high in heights:
        middle = max(free + 17, free + high / 2)
        tops.append(middle - high / 2)
        free = max(middle + 17, middle + high / 2) + 6
    return tops, free
