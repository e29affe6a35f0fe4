"""Units of a prompt: turns, sentences, words or tokens, with their places in the messages and their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from luthier.artifacts.explanation import UnitKind
from luthier.chat.messages import Message
from luthier.chat.tokenizer import LocatedTokens

_ENDS = frozenset(".!?…")
_WIDE_ENDS = frozenset("。！？")
"""They end a sentence without a space behind them."""
_CLOSERS = frozenset("\"'”’»)]")
FEWEST = 4
"""Units below which `auto` takes the next finer kind."""


class PromptUnit(NamedTuple):
    """A stretch of a message; `tokens` are places among the prompt's ids."""

    text: str
    message: int
    role: str
    start: int
    end: int
    tokens: tuple[int, ...] = ()


class CutPrompt(NamedTuple):
    """A prompt in units, and which unit each token belongs to (-1: what the template wrote)."""

    kind: UnitKind
    units: tuple[PromptUnit, ...]
    owners: tuple[int, ...] = ()


def cut_text(text: str, kind: UnitKind) -> list[tuple[int, int]]:
    """Cut a text into units that cover it wholly, each with the white space behind it; (start, end) of each.

    Tokens are the tokenizer's business: they are cut as words here.
    """
    if kind == "turns" or not text:
        return [(0, len(text))] if text else []
    ends = list(_sentence_ends(text) if kind == "sentences" else _word_ends(text))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _word_ends(text: str) -> Iterator[int]:
    """Where the words of a text end, each with the white space behind it."""
    inside = False
    for at in range(1, len(text)):
        inside = inside or not text[at - 1].isspace()
        if inside and text[at - 1].isspace() and not text[at].isspace():
            yield at
    if text:
        yield len(text)


def _sentence_ends(text: str) -> Iterator[int]:
    """Where sentences end: after a line, after `。`, and after `.`, `!`, `?` or `…` with closing quotes and a space.

    Before a small letter or a digit none ends.
    """
    ended, space = False, 0
    for at in range(1, len(text)):
        before, here = text[at - 1], text[at]
        if here.isspace() and not before.isspace():
            space = at
        if before == "\n" or before in _WIDE_ENDS or before in _ENDS or (ended and before in _CLOSERS):
            ended = True
        elif not before.isspace():
            ended = False
        if ended and not here.isspace() and here not in _CLOSERS and here not in _ENDS:
            broken = text[at - 1] in _WIDE_ENDS or "\n" in text[space:at]
            if broken or (before.isspace() and not (here.islower() or here.isdigit())):
                yield at
            ended = False
    if text:
        yield len(text)


def choose_unit_kind(texts: Sequence[str]) -> UnitKind:
    """The coarsest kind of which there are at least four units: sentences, words or tokens."""
    kinds: tuple[UnitKind, ...] = ("sentences", "words")
    for kind in kinds:
        if sum(len(cut_text(text, kind)) for text in texts) >= FEWEST:
            return kind
    return "tokens"


def cut_messages(messages: Sequence[Message], kind: UnitKind) -> CutPrompt:
    """Cut the contents of messages, without a tokenizer."""
    units = [
        PromptUnit(message.content[start:end], number, message.role, start, end)
        for number, message in enumerate(messages)
        for start, end in cut_text(message.content, kind)
    ]
    return CutPrompt(kind, tuple(unit for unit in units if unit.text.strip()))


def remove_units(messages: Sequence[Message], units: Sequence[PromptUnit], kept: frozenset[int]) -> tuple[Message, ...]:
    """The messages without the text of the units that are not kept; the role of each message stays."""
    contents = {number: message.content for number, message in enumerate(messages)}
    for number, unit in reversed(list(enumerate(units))):
        if number not in kept:
            content = contents[unit.message]
            contents[unit.message] = content[: unit.start] + content[unit.end :]
    return tuple(
        message if message.content == contents[number] else message.model_copy(update={"content": contents[number]})
        for number, message in enumerate(messages)
    )


def locate_units(located: LocatedTokens, messages: Sequence[Message], kind: UnitKind) -> CutPrompt:
    """Cut what messages and tools supplied to a rendering, and find the tokens of each unit.

    A token belongs to the unit of its first character that is no white space.
    """
    prompt_units: list[PromptUnit] = []
    owner_of_char = [-1] * len(located.text)
    turns: dict[int, int] = {}
    for piece in located.pieces:
        text = located.text[piece.start : piece.end]
        role = messages[piece.message].role if piece.message >= 0 else "tools"
        content = messages[piece.message].content if piece.message >= 0 else text
        offset = max(0, content.find(text)) if piece.part == "content" else 0
        for start, end in cut_text(text, kind):
            number = turns.get(piece.message, len(prompt_units)) if kind == "turns" else len(prompt_units)
            turns[piece.message] = number
            if number == len(prompt_units):
                unit = PromptUnit(text[start:end], piece.message, role, offset + start, offset + end)
                prompt_units.append(unit)
            owner_of_char[piece.start + start : piece.start + end] = [number] * (end - start)
    owners = [_find_owner(located, at, owner_of_char) for at in range(len(located.ids))]
    if kind == "tokens":
        return _each_token(located, prompt_units, owners)
    return _number(kind, prompt_units, owners)


def _find_owner(located: LocatedTokens, token: int, owner_of_char: Sequence[int]) -> int:
    start, end = located.starts[token], located.ends[token]
    first = next((at for at in range(start, end) if not located.text[at].isspace()), start)
    return owner_of_char[first] if first < len(owner_of_char) and end > start else -1


def _each_token(located: LocatedTokens, words: Sequence[PromptUnit], owners: Sequence[int]) -> CutPrompt:
    """Each token of a message by itself."""
    units, mine = list[PromptUnit](), list[int]()
    cursor: dict[int, int] = {}
    for at, owner in enumerate(owners):
        if owner < 0:
            mine.append(-1)
            continue
        word = words[owner]
        text = located.text[located.starts[at] : located.ends[at]]
        begin = cursor.get(owner, word.start)
        cursor[owner] = begin + len(text.strip())
        mine.append(len(units))
        units.append(word._replace(text=text, start=begin, end=begin + len(text.strip()), tokens=(at,)))
    return CutPrompt("tokens", tuple(units), tuple(mine))


def _number(kind: UnitKind, found: Sequence[PromptUnit], owners: Sequence[int]) -> CutPrompt:
    """Units with their tokens; those without any are left out."""
    tokens: dict[int, list[int]] = {}
    for at, owner in enumerate(owners):
        if owner >= 0:
            tokens.setdefault(owner, []).append(at)
    order = {number: position for position, number in enumerate(sorted(tokens))}
    units = tuple(found[number]._replace(tokens=tuple(tokens[number])) for number in order)
    return CutPrompt(kind, units, tuple(order.get(owner, -1) for owner in owners))
