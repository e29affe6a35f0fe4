"""Where keys lie: which letters a finger hits beside the one that was meant.

Rows are those of the standard layouts (US QWERTY, German QWERTZ, French AZERTY). Each lower row stands a little to the
right of the one above it (by 0, 1/4 and 3/4 of a key on ISO and ANSI keyboards alike), and two keys are neighbours when
their middles are at most `REACH` key widths apart.
"""

from __future__ import annotations

from functools import cache
from math import hypot
from typing import Literal

Layout = Literal["qwerty", "qwertz", "azerty"]
ROWS: dict[Layout, tuple[str, str, str]] = {
    "qwerty": ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    "qwertz": ("qwertzuiopü", "asdfghjklöä", "yxcvbnm"),
    "azerty": ("azertyuiop", "qsdfghjklm", "wxcvbn"),
}
SHIFTS = (0.0, 0.25, 0.75)
"""How far each row stands to the right."""
REACH = 1.3


@cache
def neighbor_keys(layout: Layout) -> dict[str, str]:
    """The letters around each letter, nearest first."""
    coordinates = {
        key: (SHIFTS[row] + column, float(row))
        for row, keys in enumerate(ROWS[layout])
        for column, key in enumerate(keys)
    }
    found: dict[str, str] = {}
    for key, (x, y) in coordinates.items():
        apart = {other: hypot(x - there[0], y - there[1]) for other, there in coordinates.items() if other != key}
        found[key] = "".join(sorted((other for other in apart if apart[other] <= REACH), key=lambda o: (apart[o], o)))
    return found
