"""From two texts to the spans that differ: small enough to be read, and found in one walk over the text."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.data.operator import Edit

_REACH_CHARS = 16
"""So far around a difference the walk looks for the place where the texts go on alike."""
_ALIKE_CHARS = 6
"""So many equal characters count as going on alike."""
_STRIDE = 64
_FEW_CHARS = 3
"""So few skipped characters are tried out, before all that could be skipped are looked up."""


def edits(field: str, before: str, after: str, reason: str) -> list[Edit]:
    """Separate spans that turn one text into the other."""
    return [
        Edit(field, start, end, before[start:end], after[new_start:new_end], reason)
        for start, end, new_start, new_end in _spans(before, after)
    ]


def _spans(old: str, new: str) -> Iterator[tuple[int, int, int, int]]:
    """Differing stretches of both texts; where they never meet again, the rest is one stretch."""
    i = j = 0
    while True:
        same = _same_chars(old, i, new, j)
        i, j = i + same, j + same
        if i == len(old) and j == len(new):
            return
        skip_old, skip_new = _meet(old, i, new, j)
        yield i, i + skip_old, j, j + skip_new
        i, j = i + skip_old, j + skip_new


def _same_chars(old: str, i: int, new: str, j: int) -> int:
    """How many characters are the same from here."""
    same = 0
    while old[i + same : i + same + _STRIDE] == new[j + same : j + same + _STRIDE] and i + same < len(old):
        same += _STRIDE
    most = min(len(old) - i, len(new) - j)
    step = _STRIDE
    while step > 1:
        step //= 2
        if old[i + same : i + same + step] == new[j + same : j + same + step]:
            same += step
    return min(same, most)


def _meet(old: str, i: int, new: str, j: int) -> tuple[int, int]:
    """The fewest characters to skip in both texts until they go on alike; of equally few, the fewest in the old one."""
    for both in range(1, min(_FEW_CHARS, len(old) - i, len(new) - j) + 1):
        for skip in range(both + 1):
            there = j + both - skip
            if old[i + skip : i + skip + _ALIKE_CHARS] == new[there : there + _ALIKE_CHARS]:
                return skip, both - skip
    least = 2 * _REACH_CHARS
    found: tuple[int, int] | None = None
    for skip_new in range(min(_REACH_CHARS, len(new) - j) + 1):
        if skip_new > least:
            break  # what follows skips more
        piece = new[j + skip_new : j + skip_new + _ALIKE_CHARS]
        skip_old = _first(old, i, piece, min(_REACH_CHARS, least - skip_new))
        if skip_old is not None and skip_old + skip_new < 2 * _REACH_CHARS:
            found, least = (skip_old, skip_new), skip_old + skip_new
    return found or _tail(old, i, new, j)


def _first(old: str, i: int, piece: str, most: int) -> int | None:
    """The fewest characters to skip, at most so many, until the text goes on with a piece; a shorter one is its end."""
    if len(piece) == _ALIKE_CHARS:
        at = old.find(piece, i, i + most + _ALIKE_CHARS)
        return at - i if at >= 0 else None
    skip = len(old) - len(piece) - i
    return skip if 0 <= skip <= most and old.endswith(piece) else None


def _tail(old: str, i: int, new: str, j: int) -> tuple[int, int]:
    """The rest of both texts without what is the same at their ends."""
    most = min(len(old) - i, len(new) - j)
    same = 0
    while same < most and old[-1 - same] == new[-1 - same]:
        same += 1
    return len(old) - i - same, len(new) - j - same
