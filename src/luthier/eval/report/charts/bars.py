"""Bars of counts, one a row, each in parts: rows by label and split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.eval.report.charts.drawing import LETTER, SvgDrawing, truncate_to_width

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
