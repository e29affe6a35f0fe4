"""A training curve: the loss of each step, its smoothed course, the held-out loss, and the learning rate under it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from luthier.eval.report.charts.drawing import Drawing, Scale, short, ticks
from luthier.eval.report.facts import LogPoint

MOST_POINTS = 400
"""More steps than this are drawn as means of neighbours."""
MARGIN = 88
"""Room at the right for the names of the curves, px."""
Point = tuple[float, float]


def curve(log: Sequence[LogPoint], *, width: int, name: str, desc: str) -> str:
    """The picture as SVG text."""
    losses = [(float(point.step), point.loss) for point in log if point.loss is not None]
    held_out = [(float(point.step), point.held_out_loss) for point in log if point.held_out_loss is not None]
    rates = [(float(point.step), point.lr) for point in log if point.lr is not None]
    tall = 210.0 if width >= 480 else 190.0
    drawing = Drawing(width, tall + (96 if rates else 30), name=name, title="Loss by step", desc=desc)
    right = width - MARGIN
    across = Scale(log[0].step if log else 0, max(log[-1].step, 1) if log else 1, 38, right)
    _losses(drawing, across, losses, held_out, tall)
    bottom = tall
    if rates:
        bottom = tall + 66
        _rates(drawing, across, rates, tall + 24, bottom)
    for tick in ticks(across.low, across.high, 5 if width >= 480 else 3):
        drawing.text(across(tick), bottom + 16, short(tick), "tick", "middle")
    drawing.text(drawing.width, bottom + 16, "step", "tick", "end")
    return str(drawing)


def smoothed(points: Sequence[Point]) -> list[Point]:
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


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_POINTS` points: means of neighbours."""
    if len(points) <= MOST_POINTS:
        return list(points)
    edges = [round(k * len(points) / MOST_POINTS) for k in range(MOST_POINTS + 1)]
    groups = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _losses(drawing: Drawing, across: Scale, losses: Sequence[Point], held_out: Sequence[Point], tall: float) -> None:
    values = [y for _, y in [*losses, *held_out]] or [0.0, 1.0]
    up = Scale(min(0.0, *values), _top(values), tall, 8)
    for tick in ticks(up.low, up.high, 4):
        drawing.line(38, up(tick), drawing.width - MARGIN, up(tick), "zero" if tick == 0 else "grid")
        drawing.text(30, up(tick) + 4, short(tick), "tick", "end")
    drawing.polyline([(across(x), up(y)) for x, y in thinned(losses)], "curve faint")
    smooth = thinned(smoothed(losses))
    drawing.polyline([(across(x), up(y)) for x, y in smooth], "curve tuned")
    ends = [(smooth[-1], "loss", "label accent")] if smooth else []
    if held_out:
        drawing.polyline([(across(x), up(y)) for x, y in held_out], "curve against")
        for x, y in held_out:
            drawing.circle(across(x), up(y), 3.5, "dot against", f"held out, step {x:.0f}: {y:.3f}")
        ends.append((held_out[-1], "held out", "label against"))
    _end_labels(drawing, up, ends)


def _end_labels(drawing: Drawing, up: Scale, ends: Sequence[tuple[Point, str, str]]) -> None:
    """Names of the curves at their ends, moved apart where they would touch."""
    ordered = sorted(ends, key=lambda end: up(end[0][1]))
    places = [up(y) - 2 for (_, y), _, _ in ordered]
    for at in range(1, len(places)):
        places[at] = max(places[at], places[at - 1] + 32)
    over = max(places[-1] - (up(up.low) - 18), 0.0) if places else 0.0
    for ((_, y), words, kind), at_y in zip(ordered, places, strict=True):
        drawing.text(drawing.width - MARGIN + 10, at_y - over, words, f"{kind} strong")
        drawing.text(drawing.width - MARGIN + 10, at_y - over + 14, f"{y:.3f}", "tick")


def _rates(drawing: Drawing, across: Scale, rates: Sequence[Point], top: float, bottom: float) -> None:
    highest = max(y for _, y in rates) or 1.0
    up = Scale(0, highest, bottom, top)
    drawing.line(38, bottom, drawing.width - MARGIN, bottom, "zero")
    drawing.polyline([(across(x), up(y)) for x, y in thinned(rates)], "curve grey")
    drawing.text(drawing.width - MARGIN + 10, top + 6, "learning rate", "tick")
    drawing.text(drawing.width - MARGIN + 10, top + 20, f"≤ {highest:.2g}", "tick")


def _top(values: Sequence[float]) -> float:
    """The top of the axis: the highest loss, unless a few first steps tower over all others."""
    ordered = sorted(values)
    usual = ordered[min(int(len(ordered) * 0.98), len(ordered) - 1)]
    return max(min(ordered[-1], usual * 1.6), 1e-9) * 1.04
