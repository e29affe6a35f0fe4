"""The most that a course reads at once, forward and backward, so that memory fails before the first step or never."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy
import torch

from luthier.core.errors import ModelError, Where
from luthier.core.files import lacks_memory
from luthier.models.pack import Pack, Row, packs
from luthier.tune.lanes import rounds
from luthier.tune.schedule import Course

Prepared = Callable[[list[Row]], list[Row]]
LOOKED_AT = 32
"""Steps whose packs are laid out to find the largest: those whose rows have most tokens."""


class Lessons(Protocol):
    """Lessons by number, and the tokens of each."""

    @property
    def sizes(self) -> numpy.ndarray[Any, Any]:
        """(lessons,) tokens of each lesson."""

    def rows(self, number: int) -> list[Row]:
        """The rows of one lesson."""


Beside = tuple[Pack, ...]
"""Packs that are read at once."""


class Fitting(NamedTuple):
    """What fits into memory: tokens that are read at once, in how many packs, and a sentence about it."""

    tokens: int
    lanes: int
    what: str


def rehearse(largest: Callable[[int, int], Beside], tokens: int, lanes: int, read: Callable[[Beside], None]) -> Fitting:
    """Run the largest packs, side by side where they may be, then alone, then smaller ones each time that memory fails.

    `largest` gives them for a bound in tokens and a number of lanes. `ModelError` when not even the rows of one example
    fit.
    """
    smaller = ""
    while True:
        beside = largest(tokens, lanes)
        pack, computed = max(beside, key=_cost), sum(one.tokens for one in beside)
        if _fits(beside, read):
            return Fitting(tokens, lanes, f"{_named(beside)} into memory{smaller}")
        if len(beside) > 1:
            lanes = 1
            smaller = f": packs are read one after another, since {computed} tokens side by side did not"
            continue
        if int(pack.lesson[-1]) == 0:
            what = f"the {pack.tokens} tokens of example {pack.keys[0]} do not fit into memory"
            remedy = "leave out or cut long rows (max_tokens), or choose a technique or a model that needs less"
            raise ModelError(what, where=Where(field="tokens_per_pack"), remedy=remedy)
        tokens = min(tokens, pack.tokens) // 2
        smaller = f": tokens_per_pack was lowered to {tokens}, since {pack.tokens} tokens did not"


def _named(beside: Beside) -> str:
    if len(beside) == 1:
        return f"the largest pack ({beside[0].tokens} tokens of {beside[0].rows} rows) fits"
    sizes = " and ".join(str(one.tokens) for one in beside)
    return f"the largest packs side by side ({sizes} tokens of {sum(one.rows for one in beside)} rows) fit"


def _fits(beside: Beside, read: Callable[[Beside], None]) -> bool:
    """Whether packs can be read at once; what was held on the way is given back."""
    try:
        with torch.random.fork_rng():
            read(beside)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
    else:
        return True
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def largest(lessons: Lessons, course: Course, tokens: int, lanes: int = 1, prepared: Prepared = list) -> Beside:
    """The packs read at once that have most tokens, among those of the steps that have most to read."""
    sizes = lessons.sizes
    weights = [int(sizes[course.lessons_of(step)].sum()) for step in range(course.steps)]
    longest = [int(sizes[course.lessons_of(step)].max()) for step in range(course.steps)]
    steps = sorted(range(course.steps), key=lambda step: (-weights[step], step))[:LOOKED_AT]
    steps.append(longest.index(max(longest)))
    read = (prepared(rows_of(lessons, course, step)) for step in steps)
    at_once = (
        tuple(sorted(some, key=_cost, reverse=True)[:lanes]) for rows in read for some in rounds(rows, tokens, lanes)
    )
    return max(at_once, key=lambda some: _sum(map(_cost, some)))


def _sum(costs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    tokens, sources = zip(*costs, strict=True)
    return sum(tokens), sum(sources)


def _cost(pack: Pack) -> tuple[int, int]:
    return pack.tokens, pack.sources.shape[0]


def packs_of(lessons: Lessons, course: Course, tokens: int) -> Iterator[Pack]:
    """All packs of a course, in the order in which they are learnt; of a prompt that is yet to be answered all is
    read."""
    for step in range(course.steps):
        yield from packs([_read(row) for row in rows_of(lessons, course, step)], tokens)


def _read(row: Row) -> Row:
    """A row of which nothing is learnt with one more token, before which the rest is read."""
    return row if row.targets else replace(row, ids=[*row.ids, row.ids[-1]], learnt=[*row.learnt, 1.0])


def rows_of(lessons: Lessons, course: Course, step: int) -> list[Row]:
    """The rows of one optimizer step."""
    return [row for lesson in course.lessons_of(step) for row in lessons.rows(lesson)]
