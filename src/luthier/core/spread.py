"""Some of many, taken evenly from the first to the last: the first rows of a sorted file tell of one kind alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, in order."""
    count = min(most, len(items))
    return [items[at * len(items) // count] for at in range(count)]
