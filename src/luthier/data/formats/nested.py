"""Rows whose texts lie in objects inside: their columns by dotted names, and where the array with the rows is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from luthier.data.row import Broken, Record

LEAST_ROWS = 2
"""An array of fewer objects is no table."""
_TURN = frozenset({"role", "from", "content", "value"})
"""What the turns of a conversation hold, which are no rows."""


_INSTANCES = "instances"
"""The column in which Self-Instruct keeps what a task was tried with: a list of objects with `input` and `output`."""


def flattened(found: Iterator[Record | Broken]) -> Iterator[Record | Broken]:
    """Every row with `{"question": {"text": …}}` as the column `question.text`; lists stay as they are, but that a
    task of Self-Instruct is a row for each of its instances."""
    for one in found:
        if isinstance(one, Broken):
            yield one
        elif _is_task(one.values):
            yield from (_flat(one._replace(values={**one.values, _INSTANCES: each})) for each in one.values[_INSTANCES])
        else:
            yield _flat(one)


def _flat(one: Record) -> Record | Broken:
    leaves = list(_leaves(one.values, ""))
    values = dict(leaves)
    if len(values) == len(leaves):
        return one._replace(values=values)
    names = [name for name, _ in leaves]
    twice = next(name for name in names if names.count(name) > 1)
    return Broken(one.file, one.line, "two values have this name", twice, "set `flatten: false`", one.key)


def _is_task(row: dict[str, Any]) -> bool:
    """Whether it is a task of Self-Instruct."""
    found = row.get(_INSTANCES)
    tried = isinstance(found, list) and bool(found) and all(isinstance(one, dict) and "output" in one for one in found)
    return tried and "instruction" in row


def _leaves(value: dict[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}", inner


def has_inner_texts(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether sentences stand only in objects inside of the rows, or the rows are tasks of Self-Instruct."""
    if rows and all(map(_is_task, rows)):
        return True
    return any(map(_has_sentence, (dict(_leaves(row, "")) for row in rows))) and not any(map(_has_sentence, rows))


def _has_sentence(row: dict[str, Any]) -> bool:
    return any(map(_speaks, row.values()))


def _speaks(value: Any) -> bool:
    """Whether a value holds a sentence or the turns of a conversation; a list of tags or of names does not."""
    if isinstance(value, list):
        return any(isinstance(one, dict) and (not _TURN.isdisjoint(one) or _has_sentence(one)) for one in value)
    return isinstance(value, str) and " " in value.strip()


def inner_array(row: dict[str, Any], aside: frozenset[str]) -> str | None:
    """The dotted name of the one array of objects inside of an object that is itself no row."""
    if _has_sentence(row):
        return None
    found = [
        (name, value)
        for name, value in _leaves(row, "")
        if isinstance(value, list) and len(value) >= LEAST_ROWS and all(isinstance(one, dict) for one in value)
    ]
    if len(found) != 1:
        return None
    (name, value), *_ = found
    is_talk = name.rpartition(".")[2] in aside and not _TURN.isdisjoint(value[0])
    return None if is_talk else name


def by_name(row: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The objects that an object holds by their names, where they are rows of one table, and the name of the object
    that holds them; empty for the row itself."""
    inner = {name: value for name, value in row.items() if isinstance(value, dict)}
    for name, named in (("", row), *inner.items()):
        rows = list(named.values())
        if len(rows) > LEAST_ROWS and all(map(_is_row, rows)) and set.intersection(*map(set, rows)):
            return name, named
    return None


def _is_row(value: Any) -> bool:
    """Whether an object says something, and holds no table."""
    if not isinstance(value, dict) or not _has_sentence(value):
        return False
    tables = (one for one in value.values() if isinstance(one, list) and one and isinstance(one[0], dict))
    return not any(_TURN.isdisjoint(one[0]) for one in tables)


def holds_columns(row: dict[str, Any]) -> bool:
    """Whether an object is a table by its columns: a list, or an object by numbers, of as many values in each."""
    if {"columns", "data"} <= set(row) <= {"columns", "data", "index", "schema"}:
        return True
    values = list(row.values())
    if not all(isinstance(one, list) for one in values) and not all(isinstance(one, dict) for one in values):
        return False
    columns = [set(one) if isinstance(one, dict) else set(range(len(one))) for one in values]
    if len(values) < LEAST_ROWS or len(columns[0]) <= LEAST_ROWS or any(one != columns[0] for one in columns):
        return False
    cells = (cell for one in values for cell in (one.values() if isinstance(one, dict) else one))
    return not any(isinstance(cell, dict) for cell in cells)
