"""Curves for pages: points, axes and intervals placed in an SVG of fixed proportions, and the same as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from luthier.eval.report.charts.drawing import Scale, choose_axis_ticks, format_tick_label
from luthier.studio.translation import gettext, write_figure, write_moment

WIDTH, HEIGHT = 360.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 8.0, 10.0, 24.0
_DOTS = 60
"""More points than this have no dot of their own; so many of them say their value under the pointer, and in the
table."""


class ChartPoint(NamedTuple):
    """A value at a place of the axis, with its interval where it has one."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None


class ChartMark(NamedTuple):
    """A value that a curve is held against: a limit, or what the report measured."""

    label: str
    value: float
    is_limit: bool = False


class ChartDot(NamedTuple):
    """A place in the picture that says its value."""

    x: float
    y: float
    hint: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A curve, placed."""

    title: str
    unit: str
    last: str
    """The last value, written."""
    about: str
    """The curve in a sentence, for those who do not see it."""
    lines: Sequence[str]
    """The curve as SVG polylines have it."""
    band: str
    """Its intervals as a polygon; empty where it has none."""
    ticks_x: Sequence[tuple[float, str]]
    ticks_y: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, str, bool]]
    dots: Sequence[ChartDot]
    has_dots: bool
    """Whether each point is drawn as a dot."""
    rows: Sequence[tuple[str, str, str]]
    """Place, value and interval of points, for the table."""
    across: str
    """What the axis counts."""
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    bottom: float = HEIGHT - _BOTTOM


def build_chart(
    title: str,
    points: Sequence[Sequence[float]],
    *,
    unit: str = "",
    axis: Literal["count", "time"] = "count",
    across: str = "",
    marks: Sequence[ChartMark] = (),
) -> Chart | None:
    """Place a curve; None where there is no point. A time is in seconds since 1970."""
    found = [one for one in map(_point, points) if math.isfinite(one.value)]
    if not found:
        return None
    values = [value for one in found for value in (one.value, one.low, one.high) if value is not None]
    values += [mark.value for mark in marks if math.isfinite(mark.value)]
    low, high = _range(min(values), max(values))
    left, right = min(one.x for one in found), max(one.x for one in found)
    over = Scale(left, right if right > left else left + 1, _LEFT, WIDTH - _RIGHT)
    up = Scale(low, high, HEIGHT - _BOTTOM, _TOP)
    write = _moment_writer(right - left) if axis == "time" else format_tick_label
    some = found if len(found) <= _DOTS else [found[round(at * (len(found) - 1) / (_DOTS - 1))] for at in range(_DOTS)]
    first, last = found[0], found[-1]
    return Chart(
        title=title, unit=unit, last=_figure(last.value), across=across,
        about=f"{title}{f' ({unit})' if unit else ''}: {_figure(first.value)} → {_figure(last.value)}, "
        f"{_figure(min(one.value for one in found))} {gettext('to')} {_figure(max(one.value for one in found))}",
        lines=[" ".join(f"{over(one.x):.1f},{up(one.value):.1f}" for one in found)],
        band=_band(found, over, up),
        ticks_x=[(over(tick), write(tick)) for tick in _ticks_across(left, right, axis)],
        ticks_y=[(up(tick), format_tick_label(tick)) for tick in choose_axis_ticks(low, high, 4)],
        marks=[(up(mark.value), mark.label, mark.is_limit) for mark in marks if math.isfinite(mark.value)],
        dots=[ChartDot(over(one.x), up(one.value), _hint(one, write, unit)) for one in some],
        has_dots=len(found) <= _DOTS,
        rows=[(write(one.x), _figure(one.value), _interval(one)) for one in some],
    )  # fmt: skip


def _point(values: Sequence[float]) -> ChartPoint:
    return ChartPoint(*values[:4]) if len(values) >= 4 else ChartPoint(values[0], values[1])


def _range(low: float, high: float) -> tuple[float, float]:
    """A little more than the values take; from nothing on where they are not far above it."""
    if low >= 0 and low <= high / 2:
        low = 0.0
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - room), high + room


def _ticks_across(left: float, right: float, axis: str) -> list[float]:
    if axis == "time":
        return [left + (right - left) * share for share in (0.0, 0.5, 1.0)] if right > left else [left]
    return choose_axis_ticks(left, right, 4)


def _moment_writer(seconds: float) -> Callable[[float], str]:
    form = "HH:mm" if seconds <= 86400 else "dd MMM HH:mm" if seconds <= 3 * 86400 else "dd MMM"
    return lambda moment: write_moment(datetime.fromtimestamp(moment), form)


def _band(points: Sequence[ChartPoint], over: Scale, up: Scale) -> str:
    ends = [(one.x, one.low, one.high) for one in points if one.low is not None and one.high is not None]
    if len(ends) < 2 or all(low == high for _, low, high in ends):
        return ""
    there = [f"{over(x):.1f},{up(high):.1f}" for x, _, high in ends]
    back = [f"{over(x):.1f},{up(low):.1f}" for x, low, _ in reversed(ends)]
    return " ".join([*there, *back])


def _figure(value: float) -> str:
    return write_figure(value, ".4g").replace("-", "−")


def _interval(point: ChartPoint) -> str:
    if point.low is None or point.high is None or point.low == point.high:
        return ""
    return f"{_figure(point.low)} {gettext('to')} {_figure(point.high)}"


def _hint(point: ChartPoint, write: Callable[[float], str], unit: str) -> str:
    interval = _interval(point)
    return f"{write(point.x)}: {_figure(point.value)}{f' {unit}' if unit else ''}{f' ({interval})' if interval else ''}"
