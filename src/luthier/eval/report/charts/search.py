"""A search in two pictures: how far each trial came, and which finalists no other surpasses in two aims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.eval.report.charts.drawing import Scale, SvgDrawing, choose_axis_ticks, format_tick_label

LEFT, RIGHT, TOP = 50, 60, 14
"""Room at the left for ticks, at the right for names, and above, px."""
LETTERS = 7.7


class TrialLine(NamedTuple):
    """A trial's value at each rung that it came to, and how it is drawn."""

    name: str
    """Written at its end; empty for most."""
    values: tuple[tuple[int, float], ...]
    """By the number of the rung among those drawn, from 0."""
    kind: str
    """`tuned` for the one that was taken, `against` for the one that the search began with, else `faint`."""


class RungColumn(NamedTuple):
    """What is written under a rung: its share of the training, and how many trials had it."""

    title: str
    note: str


class FrontPoint(NamedTuple):
    """A finalist by two aims."""

    name: str
    x: float
    y: float
    kind: str
    """`tuned` for the one that was taken, `held` for others on the front, else `off`."""


class FrontFrame(NamedTuple):
    """What the picture of a front is called, said to show, and what stands at its axes."""

    title: str
    desc: str
    x_label: str
    y_label: str


def draw_rung_chart(
    lines: Sequence[TrialLine], columns: Sequence[RungColumn], *, width: int, name: str, title: str, desc: str
) -> str:
    """The picture as SVG text: a line for each trial from rung to rung, the marked ones over the others."""
    tall = 220.0
    drawing = SvgDrawing(width, tall + 44, name=name, title=title, desc=desc)
    values = [value for line in lines for _, value in line.values] or [0.0, 1.0]
    up = _padded(values, tall, TOP)
    across = Scale(0, max(len(columns) - 1, 1), LEFT + 24, width - RIGHT - 24)
    _grid(drawing, up, width)
    for at, column in enumerate(columns):
        drawing.line(across(at), TOP, across(at), tall, "grid")
        drawing.text(across(at), tall + 18, column.title, "label strong", "middle")
        drawing.text(across(at), tall + 34, column.note, "tick", "middle")
    for line in sorted(lines, key=lambda line: ("faint", "against", "tuned").index(line.kind)):
        points = [(across(at), up(value)) for at, value in line.values]
        drawing.polyline(points if len(points) > 1 else [], f"curve {line.kind}")
        for (x, y), (_, value) in zip(points, line.values, strict=True):
            drawing.circle(x, y, 2.5 if line.kind == "faint" else 4.5, f"dot {line.kind}", f"{line.name}: {value:.4g}")
    _names(drawing, [(line.name, across(line.values[-1][0]), up(line.values[-1][1])) for line in _named(lines)])
    return str(drawing)


def draw_front_chart(points: Sequence[FrontPoint], frame: FrontFrame, *, width: int, name: str) -> str:
    """The picture as SVG text: finalists as dots, those that no other surpasses joined by a line."""
    tall = 230.0
    drawing = SvgDrawing(width, tall + 40, name=name, title=frame.title, desc=frame.desc)
    up = _padded([point.y for point in points], tall, TOP + 14)
    across = _padded([point.x for point in points], LEFT + 12, width - RIGHT)
    _grid(drawing, up, width)
    for tick in choose_axis_ticks(across.low, across.high, 5 if width >= 480 else 3):
        drawing.text(across(tick), tall + 18, format_tick_label(tick), "tick", "middle")
    drawing.text(LEFT, TOP, frame.y_label, "tick")
    drawing.text(width, tall + 36, frame.x_label, "tick", "end")
    front = sorted((point.x, point.y) for point in points if point.kind != "off")
    drawing.polyline([(across(x), up(y)) for x, y in front], "curve grey")
    for point in points:
        shown = {"tuned": "tuned", "held": "held", "off": "base"}[point.kind]
        drawing.circle(across(point.x), up(point.y), 5, f"dot {shown}", point.name)
    _names(drawing, [(point.name, across(point.x), up(point.y)) for point in points])
    return str(drawing)


def _named(lines: Sequence[TrialLine]) -> list[TrialLine]:
    return [line for line in lines if line.kind != "faint" and line.values]


def _names(drawing: SvgDrawing, ends: Sequence[tuple[str, float, float]]) -> None:
    """Names beside their points, moved down where they would touch one another."""
    placed: list[tuple[float, float]] = []
    for words, x, y in sorted(ends, key=lambda end: (end[2], end[1], end[0])):
        long = len(words) * LETTERS
        at = y + 4
        while any(abs(at - other) < 13 and abs(x - left) < long + 12 for left, other in placed):
            at += 13
        at = min(at, drawing.height - 40)
        placed.append((x, at))
        if x + 8 + long > drawing.width:
            drawing.text(x - 8, at, words, "label", "end")
        else:
            drawing.text(x + 8, at, words, "label")


def _grid(drawing: SvgDrawing, up: Scale, width: int) -> None:
    for tick in choose_axis_ticks(up.low, up.high, 4):
        drawing.line(LEFT, up(tick), width - RIGHT + 20, up(tick), "grid")
        drawing.text(LEFT - 8, up(tick) + 4, format_tick_label(tick), "tick", "end")


def _padded(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 0.5
    return Scale(low - room, high + room, start, end)
