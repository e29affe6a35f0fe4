"""Conversations asked turn by turn: each turn of the assistant's is answered after the true history before it.

The turns of a conversation become rows that bear its name and their number, `ID/2`. They hang together, so that
intervals and tests take conversations for their units, not turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from luthier.core.errors import RecipeError, Where
from luthier.text.messages import spelled_out

if TYPE_CHECKING:
    from luthier.eval.rows import Task
    from luthier.text.messages import Example

Turns = Literal["last", "all"]
_MARK = "/"


def conversation_of(row: str) -> str:
    """The id of the example that a row is of."""
    return row.split(_MARK, 1)[0]


def conversations(rows: Sequence[str]) -> list[str] | None:
    """The conversation of each row; None when rows are whole examples, each for itself."""
    return [conversation_of(row) for row in rows] if any(_MARK in row for row in rows) else None


def together(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """The rows of one conversation after those of the other; rows that are whole examples one by one."""
    for _, run in groupby(examples, key=lambda example: conversation_of(example.id)):
        yield list(run)


def turn_by_turn(task: Task) -> Task:
    """The same conversations with a row for each turn of the assistant's that is to be learnt and says something."""
    if task.kind == "label":
        what = "`turns: all` asks every turn of conversations, and this data holds labels, which the last turn says"
        raise RecipeError(what, where=Where(field="turns"), remedy="leave `turns` out")
    return replace(task, examples=tuple(turn for example in task.examples for turn in _turns(example)))


def as_asked(examples: Iterable[Example]) -> Iterator[Example]:
    """Each example, and after it its turns: whichever of them a row of an evaluation is of bears the row's id."""
    for example in examples:
        yield example
        yield from _turns(example)


def last_turns(task: Task) -> list[int]:
    """Row numbers of each conversation's last turn."""
    lasts = {conversation_of(example.id): row for row, example in enumerate(task.examples)}
    return list(lasts.values())


def silent_turns(examples: Sequence[Example]) -> int:
    """How many turns of the assistant's are not asked: those that say and call nothing, or are only to be read."""
    said = sum(message.role == "assistant" for example in examples for message in example.messages)
    return said - sum(len(_turns(example)) for example in examples)


def _turns(example: Example) -> list[Example]:
    ends = [
        place + 1
        for place, message in enumerate(example.messages)
        if message.role == "assistant" and message.learn and spelled_out(message).strip()
    ]
    return [
        example.model_copy(update={"id": f"{example.id}{_MARK}{number}", "messages": example.messages[:end]})
        for number, end in enumerate(ends, 1)
    ]
