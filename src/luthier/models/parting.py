"""How the lessons of a step are parted when they do not fit into one pack: few parts, about equal, cut where little is
shared; or dealt out evenly where next to nothing is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

EVEN = 0.04
"""Parts need not be more alike than this share of the largest, unless one is to wait for the other."""
LOOK_BACK = 8
"""A cut may come earlier by this fraction of a part, where lessons share less."""
Size = Callable[[int, int], int]
"""Tokens of the lessons from the first number up to the second, packed together; grows with either end."""


def parted(count: int, size: Size, links: Sequence[int], most: int, beside: int = 1) -> list[range]:
    """Part lessons 0 up to `count` into as few runs of at most `most` tokens as can be (a larger lesson stands alone).

    The largest run is about as small as it can be with so many; `links` says how many tokens each lesson shares with
    the one before it, which a cut in front of it would compute twice. Where so many runs are read `beside` one another,
    there are as many as to leave none of them alone, and even ones are worth more than gentle cuts.
    """
    if not count or (beside == 1 and size(0, count) <= most):
        return [range(count)] if count else []
    size = cache(size)
    runs = _filled(count, size, most)
    parts = min(count, -(-len(runs) // beside) * beside)
    low, high = max(size(0, count) // parts, *(size(at, at + 1) for at in range(count))), most
    even = EVEN if beside == 1 else 0
    while high - low > max(1, even * high):
        middle = (low + high) // 2
        tried = _filled(count, size, middle)
        if len(tried) <= parts:
            runs, high = tried, middle
        else:
            low = middle
    if beside > 1:
        return runs
    gentle = _filled(count, size, min(most, high + high // LOOK_BACK), links)
    return min(runs, gentle, key=lambda some: (len(some), sum(size(run.start, run.stop) for run in some)))


def _filled(count: int, size: Size, most: int, links: Sequence[int] | None = None) -> list[range]:
    """Runs that are filled one after another; with links, each cut may come a little earlier."""
    runs: list[range] = []
    begin = 0
    while begin < count:
        end = _furthest(begin, count, size, most)
        if links is not None and end < count:
            earliest = max(begin + 1, end - (end - begin) // LOOK_BACK)
            end = min(range(earliest, end + 1), key=lambda at: (links[at], -at))
        runs.append(range(begin, end))
        begin = end
    return runs


def _furthest(begin: int, count: int, size: Size, most: int) -> int:
    """The last place up to which lessons fit together; at least one is taken."""
    low, high = begin + 1, count
    while low < high:
        middle = (low + high + 1) // 2
        if size(begin, middle) <= most:
            low = middle
        else:
            high = middle - 1
    return low


def dealt(weights: Sequence[float], parts: int) -> list[list[int]]:
    """Lessons in so many parts of about equal weight: the heaviest first, each to the part that is lightest yet."""
    found: list[list[int]] = [[] for _ in range(parts)]
    heavy = [0.0] * parts
    for at in sorted(range(len(weights)), key=lambda at: (-weights[at], at)):
        lightest = min(range(parts), key=lambda part: (heavy[part], part))
        found[lightest].append(at)
        heavy[lightest] += weights[at]
    return [sorted(part) for part in found if part]
