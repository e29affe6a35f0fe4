"""A small SVG writer: shapes by class (colours come from the page), a title and a description for those who listen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

LETTER = 6.7
"""Mean width of a letter at 13 px, by which labels are cut to their place."""
STRONG_LETTER = 7.7
"""The same in strong letters."""


class SvgDrawing:
    """An SVG of fixed proportions; `name` makes its ids, so it must be unique on the page."""

    def __init__(self, width: float, height: float, *, name: str, title: str, desc: str) -> None:
        self.width, self.height = width, height
        self._name, self._title, self._desc = name, title, desc
        self._shapes: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._shapes.append(f'<line class="{kind}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>')

    def rect(self, x: float, y: float, width: float, height: float, kind: str, hint: str = "") -> None:
        """A filled rectangle; `hint` shows under the pointer."""
        geometry = f'x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0))}" height="{_n(max(height, 0))}"'
        self._shapes.append(_shape("rect", kind, geometry, hint))

    def circle(self, x: float, y: float, radius: float, kind: str, hint: str = "") -> None:
        """A dot."""
        self._shapes.append(_shape("circle", kind, f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"', hint))

    def diamond(self, x: float, y: float, radius: float, kind: str) -> None:
        """A square on its corner."""
        r = radius * 1.25
        self.path(f"M{_n(x)} {_n(y - r)}L{_n(x + r)} {_n(y)}L{_n(x)} {_n(y + r)}L{_n(x - r)} {_n(y)}Z", kind)

    def path(self, data: str, kind: str, hint: str = "", scale: float = 1.0) -> None:
        """Any path, larger by `scale`."""
        larger = "" if scale == 1.0 else f' transform="scale({scale:.4f})"'
        self._shapes.append(_shape("path", kind, f'd="{data}"{larger}', hint))

    def polyline(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        if points:
            self.path("M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points), kind)

    def text(self, x: float, y: float, words: str, kind: str = "label", anchor: str = "start") -> None:
        """Words with their baseline at `y`."""
        self._shapes.append(
            f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def __str__(self) -> str:
        head = (
            f'<svg role="img" viewBox="0 0 {_n(self.width)} {_n(self.height)}" width="{_n(self.width)}" '
            f'height="{_n(self.height)}" aria-labelledby="{self._name}-t {self._name}-d">'
            f'<title id="{self._name}-t">{escape(self._title)}</title>'
            f'<desc id="{self._name}-d">{escape(self._desc)}</desc>'
        )
        return head + "".join(self._shapes) + "</svg>"


class Scale:
    """From values to pixels, in a straight or a logarithmic line."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        self.low, self.high, self.log = low, high, log
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside stay at the edge."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        share = (at - low) / (high - low) if high > low else 0.5
        return self._start + share * (self._end - self._start)


def choose_axis_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within the range, about as many as wanted; one for a range below a tick's twelve decimals."""
    if high - low < 1e-12:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def list_powers_of_ten(low: float, high: float) -> list[float]:
    """Powers of ten within the range."""
    return [10.0**k for k in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]


def format_tick_label(value: float) -> str:
    """A tick's label: as few figures as say it, with a true minus sign."""
    return f"{value:.6g}".replace("-", "−") if abs(value) < 1e6 else f"{value:.0e}"


def truncate_to_width(words: str, width: float, letter: float = LETTER) -> str:
    """Words cut to a width in pixels, with a mark where they were cut."""
    room = max(int(width / letter), 2)
    return words if len(words) <= room else words[: room - 1].rstrip() + "…"


def _shape(tag: str, kind: str, geometry: str, hint: str) -> str:
    if not hint:
        return f'<{tag} class="{kind}" {geometry}/>'
    return f'<{tag} class="{kind}" {geometry}><title>{escape(hint)}</title></{tag}>'


def _n(value: float) -> str:
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"
