"""From two texts to the spans that differ, small enough to be read and quick on long texts."""

from __future__ import annotations

from difflib import SequenceMatcher

from luthier.data.operator import Edit

_FINE_CHARS = 400
"""A changed middle up to this length is compared character by character; a longer one is one span."""


def edits(field: str, before: str, after: str, reason: str) -> list[Edit]:
    """Separate spans that turn one text into the other."""
    if before == after:
        return []
    start = _common_prefix(before, after)
    tail = _common_prefix(before[start:][::-1], after[start:][::-1])
    old, new = before[start : len(before) - tail], after[start : len(after) - tail]
    if len(old) > _FINE_CHARS or len(new) > _FINE_CHARS:
        return [Edit(field, start, start + len(old), old, new, reason)]
    found = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [
        Edit(field, start + i, start + j, old[i:j], new[k:m], reason) for tag, i, j, k, m in found if tag != "equal"
    ]


def _common_prefix(one: str, two: str) -> int:
    """How many characters are the same at the beginning, by halving."""
    low, high = 0, min(len(one), len(two))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
