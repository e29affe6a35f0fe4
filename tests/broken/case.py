"""One wrong input: what is written on top of a small recipe's folder, what is typed, and what must be answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny_models import RECIPE

UNREADABLE = "/proc/self/mem"
"""A file that answers every attempt to read its beginning with an error, whoever asks."""


@dataclass(frozen=True)
class Case:
    """A mistake and its answer. `{folder}` and `{artifact}` in `at` stand for places of the test."""

    name: str
    at: str
    """The whole place: file, line and field as a person reads them."""
    says: str
    """Words of the message."""
    do: str
    """Words of the remedy."""
    command: tuple[str, ...] = ("plan",)
    recipe: str | bytes | None = RECIPE
    """The text of recipe.yaml; None leaves the folder without."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """More files, by name."""
    before: Callable[[Path], object] | None = None
    """What else is done to the folder."""
    environment: Mapping[str, str] = field(default_factory=dict)
    made: bool = False
    """Whether the recipe has been run in this folder."""
    leaves: frozenset[str] = frozenset()
    """Kinds of steps that are rightly finished before the mistake shows."""
    kind: str = "RecipeError"
    """The error's class, as programs see it."""
    as_json: bool = True
    """Whether the command makes the same mistake when it prints JSON."""


def edited(old: str, new: str, text: str = RECIPE) -> str:
    """The small recipe with one place changed."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the recipe"
    return text.replace(old, new)


def data_recipe(source: str, *, ops: str = "[normalize]", split: str = "{test: 30}") -> str:
    """A recipe that only prepares data: the source is on line 5, the split on line 7."""
    return f"luthier: 1\nsteps:\n  data:\n    kind: prepare\n    source: {source}\n    ops: {ops}\n    split: {split}\n"


def json_lines(rows: list[Any]) -> str:
    """Rows as JSON lines; a row that is text is taken as it is."""
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


def with_line_17(rows: list[Any], row: Any) -> list[Any]:
    """The rows with another one on line 17."""
    return [*rows[:16], row, *rows[17:]]
