"""How many rows are held at once: so many, and never more text than memory allows, however long a row is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pydantic import BaseModel

from luthier.data.row import Broken, Record, Row

MOST_CHARACTERS = 16 << 20
"""Characters of one batch; a single row that is longer is a batch of its own."""
_OTHER = 8
"""What a number, a date or nothing counts as."""
Item = TypeVar("Item")


def size_of(value: object) -> int:
    """About how many characters a value holds, at any depth."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (list, tuple)):
        return sum(map(size_of, value))
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, BaseModel):
        return sum(map(size_of, vars(value).values()))
    return _OTHER


def size_of_row(row: Row) -> int:
    """About how many characters a row holds."""
    said = sum(len(one.content) + len(one.thinking) + size_of(one.tool_calls) + _OTHER for one in row.messages)
    return said + sum(map(size_of, row.meta.values())) + size_of(row.tools)


def size_of_record(record: Record | Broken) -> int:
    """About how many characters a row holds as a file has it."""
    return size_of(record.values) if isinstance(record, Record) else len(record.problem)


def bounded(
    items: Iterable[Item], most: int, size: Callable[[Item], int], most_characters: int = MOST_CHARACTERS
) -> Iterator[list[Item]]:
    """Items in lists, each full at `most` of them or at so many characters, whichever comes first."""
    held: list[Item] = []
    characters = 0
    for item in items:
        held.append(item)
        characters += size(item)
        if len(held) >= most or characters >= most_characters:
            yield held
            held, characters = [], 0
    if held:
        yield held


def first(items: Iterable[Item], most: int, size: Callable[[Item], int]) -> list[Item]:
    """The first items, as many as one list of `bounded` holds; an iterator goes on behind them."""
    return next(bounded(items, most, size), [])
