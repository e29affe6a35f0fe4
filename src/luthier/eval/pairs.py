"""Held-out pairs of answers as a task of labels: which of the two, the first or the second, did people prefer?

The preferred answer stands first or second by the row's id, so that a model that always says the same is right in half
of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.counted import counted
from luthier.core.digest import digest_of
from luthier.core.errors import DataError, Where
from luthier.text.preference import Pair, is_pair, pair_of

if TYPE_CHECKING:
    from luthier.text.messages import Example, Message

FIRST, SECOND = "first", "second"
OPTIONS = {FIRST: FIRST, SECOND: SECOND}


class Offer(NamedTuple):
    """A prompt and its two answers in the order in which they are shown."""

    prompt: tuple[Message, ...]
    answers: tuple[str, str]


def are_pairs(examples: Sequence[Example]) -> bool:
    """Whether every row holds two answers."""
    return bool(examples) and all(map(is_pair, examples))


def labelled(examples: Sequence[Example]) -> tuple[list[Example], Counter[str]]:
    """The rows of which one answer can be preferred, each with where that one stands; and why others are left out."""
    found: list[Example] = []
    left: Counter[str] = Counter()
    for example in examples:
        if isinstance(pair := pair_of(example), Pair):
            found.append(example.model_copy(update={"label": FIRST if _chosen_is_first(example) else SECOND}))
        else:
            left[pair] += 1
    if not found:
        why = "; ".join(f"{counted(count, 'row')}: {reason}" for reason, count in sorted(left.items()))
        raise DataError(f"no held-out pair can be ranked ({why})", where=Where(field="data"))
    return found, left


def offer_of(example: Example) -> Offer:
    """What is asked of a row of `labelled`."""
    pair = pair_of(example)
    assert isinstance(pair, Pair), "rows without two answers were left out"
    answers = (pair.chosen.content, pair.rejected.content)
    return Offer(pair.prompt, answers if _chosen_is_first(example) else (answers[1], answers[0]))


def _chosen_is_first(example: Example) -> bool:
    return int(digest_of(example.id)[:2], 16) % 2 == 0
