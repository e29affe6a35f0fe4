"""The largest pack of a course first, forward and backward, so that memory fails before the first step or never."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy
import torch

from luthier.core.errors import ModelError, Where
from luthier.core.files import lacks_memory
from luthier.models.pack import Pack, Row, packs
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


def rehearse(largest: Callable[[int], Pack], tokens: int, read: Callable[[Pack], None]) -> tuple[int, str]:
    """Run the largest pack, and a smaller one each time that memory fails; `largest` gives it for a bound in tokens.

    Returns how many tokens a pack may have, and what happened, as a sentence. `ModelError` when not even the rows of
    one example fit.
    """
    smaller = ""
    while True:
        pack = largest(tokens)
        if _fits(pack, read):
            return tokens, f"the largest pack ({pack.tokens} tokens of {pack.rows} rows) fits into memory{smaller}"
        if int(pack.lesson[-1]) == 0:
            what = f"the {pack.tokens} tokens of example {pack.keys[0]} do not fit into memory"
            remedy = "leave out or cut long rows (max_tokens), or choose a technique or a model that needs less"
            raise ModelError(what, where=Where(field="tokens_per_pack"), remedy=remedy)
        tokens = min(tokens, pack.tokens) // 2
        smaller = f": tokens_per_pack was lowered to {tokens}, since {pack.tokens} tokens did not"


def _fits(pack: Pack, read: Callable[[Pack], None]) -> bool:
    """Whether a pack can be read; what was held on the way is given back."""
    try:
        with torch.random.fork_rng():
            read(pack)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
    else:
        return True
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def largest(lessons: Lessons, course: Course, tokens: int, prepared: Prepared = list) -> Pack:
    """The pack with most tokens among those of the steps that have most to read."""
    sizes = lessons.sizes
    weights = [int(sizes[course.lessons_of(step)].sum()) for step in range(course.steps)]
    longest = [int(sizes[course.lessons_of(step)].max()) for step in range(course.steps)]
    steps = sorted(range(course.steps), key=lambda step: (-weights[step], step))[:LOOKED_AT]
    steps.append(longest.index(max(longest)))
    read = (prepared(rows_of(lessons, course, step)) for step in steps)
    return max((pack for rows in read for pack in packs(rows, tokens)), key=_cost)


def _cost(pack: Pack) -> tuple[int, int]:
    return pack.tokens, pack.sources.shape[0]


def packs_of(lessons: Lessons, course: Course, tokens: int) -> Iterator[Pack]:
    """All packs of a course, in the order in which they are learnt."""
    for step in range(course.steps):
        yield from packs(rows_of(lessons, course, step), tokens)


def rows_of(lessons: Lessons, course: Course, step: int) -> list[Row]:
    """The rows of one optimizer step."""
    return [row for lesson in course.lessons_of(step) for row in lessons.rows(lesson)]
