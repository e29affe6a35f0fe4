"""Rare values of a column that are nearly a frequent one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

_RARER = 20
"""So many times rarer than the value that was meant."""
_SHORTEST = 5
"""Shorter values differ in a letter or two and mean something else: `low`, `now`."""


def misspelt(counts: Mapping[str, int]) -> dict[str, str]:
    """Each value that is a slip of the pen away from one at least twenty times as frequent, with that one.

    A slip is one letter too many, too few or another behind the first, or two neighbours exchanged; case does not
    count. Values with digits are names of things (`model-3`), and are left alone. So is every value where values that
    are frequent stand a slip apart from one another more often than rare ones do: those are codes (`BIL`, `BILQ`,
    `BILQW`), of which each means its own.
    """
    found: dict[str, str] = {}
    for rare in sorted(counts):
        if len(rare) < _SHORTEST or any(map(str.isdigit, rare)):
            continue
        usual = [other for other in counts if counts[other] >= _RARER * counts[rare] and is_slip(rare, other)]
        if usual:
            found[rare] = min(usual, key=lambda other: (-counts[other], other))
    return found if _apart(counts, set(found)) <= len(found) else {}


def _apart(counts: Mapping[str, int], found: set[str]) -> int:
    """How many pairs of values that nobody takes for slips are a slip apart from each other."""
    others = [value for value in counts if value not in found and len(value) > 1 and not any(map(str.isdigit, value))]
    return sum(is_slip(one, other) for one, other in combinations(others, 2))


def is_slip(one: str, other: str) -> bool:
    """Whether one letter was added, left out or exchanged, or two neighbours changed places, whatever their case.

    The first letter is rarely mistyped, and makes another word: `typical` and `atypical`, `moral` and `amoral`.
    """
    from rapidfuzz.distance import OSA

    one, other = one.casefold(), other.casefold()
    if OSA.distance(one, other, score_cutoff=1) != 1:
        return False
    return one[0] == other[0] or one[:2] == other[1::-1]
