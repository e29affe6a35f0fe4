"""Curves: training logs, and learning curves with their forecast."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from luthier.eval.report.charts.drawing import (
    Scale,
    SvgDrawing,
    choose_axis_ticks,
    format_tick_label,
    truncate_to_width,
)
from luthier.eval.report.facts.tuning import LogPoint

MOST_POINTS = 400
"""More steps than this are drawn as means of neighbours."""
MARGIN = 98
"""Room at the right for the names of the curves, px."""
SMALL_LETTER = 5.8
"""Mean width of a letter in ticks, px."""
STRIP, GAP = 42, 24
"""Height of a strip and the room above it, px."""
Point = tuple[float, float]


class CurvePanel(NamedTuple):
    """A curve under the losses."""

    name: str
    points: Sequence[Point]
    dots: bool = False
    """Whether each point is a measurement worth showing, and the last value worth saying."""
    last: bool = False
    """Whether the last value, smoothed, is worth saying rather than the highest."""


def draw_training_curves(log: Sequence[LogPoint], *, width: int, name: str, desc: str) -> str:
    """The picture as SVG text."""
    losses = [(float(point.step), point.loss) for point in log if point.loss is not None]
    held_out = [(float(point.step), point.held_out_loss) for point in log if point.held_out_loss is not None]
    strips = _strips(log)
    tall = 210.0 if width >= 480 else 190.0
    drawing = SvgDrawing(width, tall + (STRIP + GAP) * len(strips) + 30, name=name, title="Loss by step", desc=desc)
    right = width - MARGIN
    across = Scale(log[0].step if log else 0, max(log[-1].step, 1) if log else 1, 38, right)
    _losses(drawing, across, losses, held_out, tall)
    bottom = tall
    for strip in strips:
        bottom += STRIP + GAP
        _strip(drawing, across, strip, bottom)
    for tick in choose_axis_ticks(across.low, across.high, 5 if width >= 480 else 3):
        drawing.text(across(tick), bottom + 16, format_tick_label(tick), "tick", "middle")
    drawing.text(drawing.width, bottom + 16, "step", "tick", "end")
    return str(drawing)


def smooth_points(points: Sequence[Point]) -> list[Point]:
    """The mean of each point and its neighbours on both sides (a thirtieth of all), so that nothing lags behind."""
    reach = max(len(points) // 30, 1)
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    out: list[Point] = []
    for at, (x, _) in enumerate(points):
        half = min(reach, at, len(points) - 1 - at)
        out.append((x, (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)))
    return out


def downsample_points(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_POINTS` points: means of neighbours."""
    if len(points) <= MOST_POINTS:
        return list(points)
    edges = [round(k * len(points) / MOST_POINTS) for k in range(MOST_POINTS + 1)]
    groups = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _losses(
    drawing: SvgDrawing, across: Scale, losses: Sequence[Point], held_out: Sequence[Point], tall: float
) -> None:
    values = [y for _, y in [*losses, *held_out]] or [0.0, 1.0]
    up = Scale(min(0.0, *values), _top(values), tall, 8)
    for tick in choose_axis_ticks(up.low, up.high, 4):
        drawing.line(38, up(tick), drawing.width - MARGIN, up(tick), "zero" if tick == 0 else "grid")
        drawing.text(30, up(tick) + 4, format_tick_label(tick), "tick", "end")
    drawing.polyline([(across(x), up(y)) for x, y in downsample_points(losses)], "curve faint")
    smooth = downsample_points(smooth_points(losses))
    drawing.polyline([(across(x), up(y)) for x, y in smooth], "curve tuned")
    ends = [(smooth[-1], "loss", "label accent")] if smooth else []
    if held_out:
        drawing.polyline([(across(x), up(y)) for x, y in held_out], "curve against")
        for x, y in held_out:
            drawing.circle(across(x), up(y), 3.5, "dot against", f"held out, step {x:.0f}: {y:.3f}")
        ends.append((held_out[-1], "held out", "label against"))
    _end_labels(drawing, up, ends)


def _end_labels(drawing: SvgDrawing, up: Scale, ends: Sequence[tuple[Point, str, str]]) -> None:
    """Names of the curves at their ends, moved apart where they would touch."""
    ordered = sorted(ends, key=lambda end: up(end[0][1]))
    label_heights = [up(y) - 2 for (_, y), _, _ in ordered]
    for at in range(1, len(label_heights)):
        label_heights[at] = max(label_heights[at], label_heights[at - 1] + 32)
    over = max(label_heights[-1] - (up(up.low) - 18), 0.0) if label_heights else 0.0
    for ((_, y), words, kind), at_y in zip(ordered, label_heights, strict=True):
        drawing.text(drawing.width - MARGIN + 10, at_y - over, words, f"{kind} strong")
        drawing.text(drawing.width - MARGIN + 10, at_y - over + 14, f"{y:.3f}", "tick")


def _strips(log: Sequence[LogPoint]) -> list[CurvePanel]:
    """What a policy's answers were worth, held-out metrics, the learning rate and the gradient's norm, as far as they
    were logged."""
    drawn = list(dict.fromkeys(name for point in log for name in point.drawn))
    curve_panels = [
        CurvePanel(name, [(float(point.step), point.drawn[name]) for point in log if name in point.drawn], last=True)
        for name in drawn
    ]
    metrics = sorted({name for point in log for name in point.held_out})
    curve_panels += [
        CurvePanel(
            f"held out {name}" if name in drawn else name,
            [(float(point.step), point.held_out[name]) for point in log if name in point.held_out],
            dots=True,
        )
        for name in metrics
    ]
    curve_panels.append(
        CurvePanel("learning rate", [(float(point.step), point.lr) for point in log if point.lr is not None])
    )
    norms = [(float(point.step), point.grad_norm) for point in log if point.grad_norm is not None]
    curve_panels.append(CurvePanel("gradient norm", norms))
    return [strip for strip in curve_panels if strip.points]


def _strip(drawing: SvgDrawing, across: Scale, strip: CurvePanel, bottom: float) -> None:
    """A low curve of its own, from zero (or the lowest value below it) to the highest, named at the right."""
    values = [y for _, y in strip.points]
    up = Scale(min(0.0, *values), _top(values), bottom, bottom - STRIP)
    drawing.line(38, bottom, drawing.width - MARGIN, bottom, "zero")
    kind = "curve against" if strip.dots else "curve grey"
    drawing.polyline([(across(x), up(y)) for x, y in downsample_points(strip.points)], kind)
    if strip.dots:
        for x, y in strip.points:
            drawing.circle(across(x), up(y), 3, "dot against", f"{strip.name}, step {x:.0f}: {y:.3f}")
    drawing.text(
        drawing.width - MARGIN + 10,
        bottom - STRIP + 6,
        truncate_to_width(strip.name, MARGIN - 10, SMALL_LETTER),
        "tick",
    )
    ends = values[-1] if strip.dots else smooth_points(strip.points)[-1][1]
    value_text = f"{ends:.3g}" if strip.dots or strip.last else f"≤ {max(values):.2g}"
    drawing.text(drawing.width - MARGIN + 10, bottom - STRIP + 20, value_text, "tick")


def _top(values: Sequence[float]) -> float:
    """The top of the axis: the highest loss, unless a few first steps tower over all others."""
    ordered = sorted(values)
    usual = ordered[min(int(len(ordered) * 0.98), len(ordered) - 1)]
    return max(min(ordered[-1], usual * 1.6), 1e-9) * 1.04


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
