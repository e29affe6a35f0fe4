"""A count and what is counted, in the words of a person."""

from __future__ import annotations

from collections.abc import Mapping


def counted(number: int, noun: str, nouns: str = "") -> str:
    """`1 row`, `2,000 rows`; `nouns` are several of them where that is not a mere s more (`class`, `classes`)."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def of_rows(number: int, rows: int, one: str, more: str) -> str:
    """`1 of 61 rows has`, `2 of 61 rows have`: the word for one of them, and for more."""
    return f"{number:,} of {counted(rows, 'row')} {one if number == 1 else more}"


def by_name(counts: Mapping[str, int]) -> str:
    """`3 × empty prompt, 17 × near duplicate`: names that do not bend with their number."""
    return ", ".join(f"{count:,} × {name}" for name, count in counts.items())
