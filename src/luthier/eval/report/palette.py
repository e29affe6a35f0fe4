"""The colours of the report, for paper and for the dark, and how far apart two colours are (WCAG 2.2)."""

from __future__ import annotations

LIGHT = {
    "paper": "#fffdf8",
    "panel": "#f6f2e9",
    "ink": "#1c1b19",
    "muted": "#5f5b53",
    "line": "#d8d2c5",
    "accent": "#0a5f73",
    "wash": "#dcebec",
    "against": "#a33a1c",
    "grey": "#7a756b",
}
DARK = {
    "paper": "#15181a",
    "panel": "#1e2224",
    "ink": "#ece8e0",
    "muted": "#aaa69d",
    "line": "#3a3f42",
    "accent": "#6cc5d9",
    "wash": "#1f3b43",
    "against": "#f39a7d",
    "grey": "#8f8b83",
}
TEXT_PAIRS = (
    ("ink", "paper"),
    ("ink", "panel"),
    ("ink", "wash"),
    ("muted", "paper"),
    ("muted", "panel"),
    ("accent", "paper"),
    ("accent", "panel"),
    ("accent", "wash"),
    ("against", "paper"),
    ("against", "panel"),
)
"""Letters on a ground: 4.5 to 1 or more."""
MARK_PAIRS = (("grey", "paper"), ("accent", "paper"), ("against", "paper"), ("grey", "panel"))
"""Marks on a ground: 3 to 1 or more."""
HEAT = (0.0, 0.16, 0.28, 0.42, 0.82, 1.0)
"""How far each step of a heat table is from the ground to the accent; the middle, where no letter reads, is missing."""


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, 0 to 1."""
    red, green, blue = (_linear(part / 255) for part in _parts(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def blend(one: str, other: str, amount: float) -> str:
    """A colour on the way from one to another."""
    mixed = (round(a + (b - a) * amount) for a, b in zip(_parts(one), _parts(other), strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def build_heat_colors(scheme: dict[str, str]) -> list[tuple[str, str]]:
    """Ground and letter colour of each step of a heat table; the letter is the one that reads better."""
    grounds = [blend(scheme["paper"], scheme["accent"], amount) for amount in HEAT]
    letters = (scheme["ink"], scheme["paper"])
    return [(ground, max(letters, key=lambda letter: contrast(letter, ground))) for ground in grounds]


def render_css_variables(scheme: dict[str, str]) -> str:
    """The scheme as CSS custom properties."""
    own = [f"--{name}:{colour}" for name, colour in scheme.items()]
    steps = [
        f"--heat{at}:{ground};--on-heat{at}:{letter}" for at, (ground, letter) in enumerate(build_heat_colors(scheme))
    ]
    return ";".join(own + steps)


def _parts(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _linear(part: float) -> float:
    return float(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
