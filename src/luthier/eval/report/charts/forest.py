"""Values with their intervals, one a row, under one axis: models, differences, slices, classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from luthier.eval.report.charts.drawing import (
    LETTER,
    STRONG_LETTER,
    Scale,
    SvgDrawing,
    choose_axis_ticks,
    format_tick_label,
    list_powers_of_ten,
    truncate_to_width,
)
from luthier.eval.report.formatting import format_duration_words

Mark = Literal["tuned", "base", "plain", "against", "unclear", "head"]
"""How a row is drawn; `head` is a heading over the rows that follow."""
STRONG = ("tuned", "against", "head")
"""Rows whose words are strong."""
NARROW = 480
"""Below this width labels stand above their line instead of beside it."""


class ForestRow(NamedTuple):
    """One row: what it is called, what is written at its end, where its mark and interval stand."""

    label: str
    value_text: str
    value: float | None
    low: float | None = None
    high: float | None = None
    mark: Mark = "tuned"
    reference_value: float | None = None
    """A second, hollow mark in the same row (the base model, a prediction)."""
    band: float | None = None
    """Shade differences smaller than this: too small to be seen with this many rows."""


class ForestFrame(NamedTuple):
    """What a picture is called, said to show, and how its axis runs."""

    title: str
    desc: str
    span: tuple[float, float] | None = None
    """Ends of the axis; from the values when None."""
    zero: bool = False
    """Draw the line at zero strongly: differences."""
    log_seconds: bool = False
    """A logarithmic axis of seconds."""
    under: str = ""
    """Words under the axis."""


class ForestLayout(NamedTuple):
    """Where things stand: the plot's left and right, and in each row the height and where label, value, mark stand."""

    left: float
    right: float
    row: float
    words: float
    value_y: float
    mark: float
    head: float


def draw_forest_plot(lines: Sequence[ForestRow], frame: ForestFrame, *, width: int, name: str) -> str:
    """The picture as SVG text."""
    layout = _place(lines, width)
    tops = [0.0]
    for line in lines:
        tops.append(tops[-1] + (layout.head if line.mark == "head" else layout.row))
    bottom = tops[-1] + 2
    drawing = SvgDrawing(width, bottom + (42 if frame.under else 24), name=name, title=frame.title, desc=frame.desc)
    scale = _scale(lines, frame, layout)
    for line, top in zip(lines, tops, strict=False):
        _band(drawing, scale, line, top + layout.mark)
    _axis(drawing, scale, frame, layout, bottom)
    for line, top in zip(lines, tops, strict=False):
        _row(drawing, scale, line, layout, top)
    return str(drawing)


def _place(lines: Sequence[ForestRow], width: int) -> ForestLayout:
    """On a wide page words stand beside the plot; on a phone above it, the value below a label that is too long."""
    longest = max((len(line.label) for line in lines), default=0) * STRONG_LETTER
    if width >= NARROW:
        left = min(max(longest + 20, 120), width * 0.41)
        return ForestLayout(left, width - 190, row=30, words=19, value_y=19, mark=15, head=30)
    if all((len(line.label) + len(line.value_text)) * _letter(line) + 10 <= width for line in lines):
        return ForestLayout(6, width - 6, row=40, words=14, value_y=14, mark=26, head=24)
    return ForestLayout(6, width - 6, row=58, words=14, value_y=31, mark=44, head=24)


def _scale(lines: Sequence[ForestRow], frame: ForestFrame, layout: ForestLayout) -> Scale:
    known = [x for line in lines for x in (line.value, line.low, line.high, line.reference_value) if x is not None]
    bands = [sign * line.band for line in lines if line.band for sign in (1, -1)]
    if frame.span is not None:
        low, high = frame.span
    elif frame.log_seconds:
        known = [max(x, 1e-3) for x in known] or [1.0]
        low, high = min(known) / 1.6, max(known) * 1.6
    else:
        known += [0.0, *bands] if frame.zero else bands
        low, high = min(known, default=0.0), max(known, default=1.0)
        room = (high - low) * 0.06 or 0.05
        low, high = low - room, high + room
    return Scale(low, high, layout.left, layout.right, log=frame.log_seconds)


def _axis(drawing: SvgDrawing, scale: Scale, frame: ForestFrame, layout: ForestLayout, bottom: float) -> None:
    marks = (
        list_powers_of_ten(scale.low, scale.high) if frame.log_seconds else choose_axis_ticks(scale.low, scale.high, 4)
    )
    for tick in marks:
        kind = "zero" if frame.zero and tick == 0 else "grid"
        drawing.line(scale(tick), 0, scale(tick), bottom, kind)
        words = format_duration_words(tick) if frame.log_seconds else format_tick_label(tick)
        edge = "start" if scale(tick) < 12 else "end" if scale(tick) > drawing.width - 12 else "middle"
        drawing.text(scale(tick), bottom + 16, words, "tick", edge)
    if frame.under:
        drawing.text((layout.left + layout.right) / 2, bottom + 34, frame.under, "tick", "middle")


def _band(drawing: SvgDrawing, scale: Scale, line: ForestRow, y: float) -> None:
    if line.band:
        left, right = scale(-line.band), scale(line.band)
        drawing.rect(left, y - 9, right - left, 18, "band", "too small to be told from chance with this many rows")


def _letter(line: ForestRow) -> float:
    return STRONG_LETTER if line.mark in STRONG else LETTER


def _row(drawing: SvgDrawing, scale: Scale, line: ForestRow, layout: ForestLayout, top: float) -> None:
    strong = " strong" if line.mark in STRONG else ""
    label_at_left = layout.left > NARROW * 0.1
    room = layout.left - 12 if label_at_left else drawing.width
    if not label_at_left and layout.value_y == layout.words:
        room -= len(line.value_text) * _letter(line) + 8
    drawing.text(0, top + layout.words, truncate_to_width(line.label, room, _letter(line)), f"label{strong}")
    at_end = label_at_left or layout.value_y == layout.words
    drawing.text(
        drawing.width if at_end else 0,
        top + layout.value_y,
        line.value_text,
        f"value{strong}",
        "end" if at_end else "start",
    )
    y = top + layout.mark
    if line.reference_value is not None:
        if line.value is not None:
            drawing.line(scale(line.reference_value), y, scale(line.value), y, "reach")
        drawing.circle(scale(line.reference_value), y, 4.5, "dot base")
    if line.value is None:
        return
    if line.low is not None and line.high is not None:
        drawing.line(scale(line.low), y, scale(line.high), y, f"whisker {line.mark}")
    if line.mark == "plain":
        drawing.diamond(scale(line.value), y, 4.5, "dot plain")
    else:
        drawing.circle(scale(line.value), y, 5, f"dot {line.mark}")
