"""A learning curve: a metric by number of training rows, measured and then foretold, with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.eval.report.charts.curve import MARGIN
from luthier.eval.report.charts.drawing import Scale, SvgDrawing, choose_axis_ticks, format_tick_label

LEFT, TALL = 46, 210.0


class CurvePoint(NamedTuple):
    """The metric at one number of training rows."""

    rows: float
    value: float
    low: float
    high: float
    measured: bool


def draw_learning_curve(points: Sequence[CurvePoint], metric: str, *, width: int, name: str, desc: str) -> str:
    """The picture as SVG text; the axis of rows is logarithmic."""
    drawing = SvgDrawing(width, TALL + 34, name=name, title=f"{metric} by training rows", desc=desc)
    rows, ends = [point.rows for point in points], [end for point in points for end in (point.low, point.high)]
    across = Scale(max(min(rows), 1.0), max(*rows, 2.0), LEFT, width - MARGIN, log=True)
    up = Scale(min(ends), max(ends), TALL, 10)
    for tick in choose_axis_ticks(up.low, up.high, 4):
        drawing.line(LEFT, up(tick), width - MARGIN, up(tick), "grid")
        drawing.text(LEFT - 8, up(tick) + 4, format_tick_label(tick), "tick", "end")
    measured = [point for point in points if point.measured]
    foretold = [*measured[-1:], *(point for point in points if not point.measured)]
    for line, kind in ((measured, "tuned"), (foretold, "against")):
        drawing.polyline([(across(point.rows), up(point.value)) for point in line], f"curve {kind}")
    for point in points:
        kind = "tuned" if point.measured else "against"
        drawing.line(across(point.rows), up(point.low), across(point.rows), up(point.high), "grid")
        hint = f"{point.rows:,.0f} rows: {point.value:.3f} ({point.low:.3f} to {point.high:.3f})"
        drawing.circle(across(point.rows), up(point.value), 3.5, f"dot {kind}", hint)
    shown = -1e9
    for value in rows:
        if across(value) - shown > 44:
            shown = across(value)
            drawing.text(shown, TALL + 18, f"{value:,.0f}", "tick", "middle")
    drawing.text(width, TALL + 18, "rows", "tick", "end")
    labels = [(measured, "measured", "label accent strong"), (foretold[1:], "foretold", "label against strong")]
    heights = [up(line[-1].value) for line, _, _ in labels if line]
    apart = len(heights) == 2 and abs(heights[0] - heights[1]) < 18
    for at, (line, words, kind) in enumerate(labels):
        if line:
            drawing.text(
                width - MARGIN + 10, up(line[-1].value) + (0 if not apart else 18 if at == 0 else -2), words, kind
            )
    return str(drawing)
