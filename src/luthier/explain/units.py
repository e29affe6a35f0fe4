"""Units of a prompt: turns, documents, shots, sentences, words or tokens, with their places and their tokens.

A document begins where a line marks it: a tag (`<document …>`), a number (`[1]`, `Document 1:`), a heading or a rule;
where no line does, after a blank line. A shot is an exchange before the last question, whichever messages it has; what
is no exchange is cut at blank lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from luthier.artifacts.explanation import PatchRegion, UnitKind
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
    more: tuple[tuple[int, int, int], ...] = ()
    """Further stretches of the same unit: message, start and end of each."""
    patch: PatchRegion | None = None
    """The block of a picture that it is."""

    @property
    def stretches(self) -> tuple[tuple[int, int, int], ...]:
        """All of them."""
        return ((self.message, self.start, self.end), *self.more)


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
    ends = {"sentences": _sentence_ends, "documents": _document_ends, "shots": _paragraph_ends}.get(kind, _word_ends)
    found = list(ends(text))
    return list(zip([0, *found[:-1]], found, strict=True))


_TAGS = tuple(f"<{name}" for name in ("document", "doc>", "doc ", "source", "passage", "context", "article", "file"))
_NAMES = frozenset(("document", "doc", "source", "passage", "context", "article", "text"))


def _marks_document(line: str) -> bool:
    """Return whether a line begins a document."""
    line = line.strip().lower()
    if line.startswith(_TAGS) or (line.startswith("[") and line[1 : max(1, line.find("]"))].isdigit()):
        return True
    if (len(line) >= 3 and line[0] in "-=*_" and not line.strip(line[0])) or line.lstrip("#")[:1] == " " < line[:1]:
        return True
    name, _, rest = line.partition(" ")
    number = rest.split(" ", 1)[0].strip("#:.)")
    return name in _NAMES and number.isdigit()


def _document_ends(text: str) -> Iterator[int]:
    """Return the ends of a text's documents: before a line that begins the next, and after a closing tag."""
    at, found, closed = 0, list[int](), False
    for line in text.splitlines(keepends=True):
        if at and line.strip() and (closed or _marks_document(line)):
            found.append(at)
        closed = line.strip().startswith("</") if line.strip() else closed
        at += len(line)
    if not (found or _marks_document(text[: text.find("\n")])):
        yield from _paragraph_ends(text)
        return
    yield from (*found, *([len(text)] if text else []))


def _paragraph_ends(text: str) -> Iterator[int]:
    """Return the ends of paragraphs, following blank lines included."""
    at, blank, is_text = 0, False, False
    for line in text.splitlines(keepends=True):
        if line.strip() and blank and is_text:
            yield at
        is_text, blank = is_text or bool(line.strip()), not line.strip()
        at += len(line)
    if text:
        yield len(text)


def _word_ends(text: str) -> Iterator[int]:
    """Return the ends of words, following white space included."""
    inside = False
    for at in range(1, len(text)):
        inside = inside or not text[at - 1].isspace()
        if inside and text[at - 1].isspace() and not text[at].isspace():
            yield at
    if text:
        yield len(text)


def _sentence_ends(text: str) -> Iterator[int]:
    """Return the ends of sentences: after a line, after `。`, and after `.`, `!`, `?` or `…` with closing quotes and a
    space, unless a small letter or a digit follows.
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


def group_messages(messages: Sequence[Message], kind: UnitKind) -> dict[int, int]:
    """Return for each message the index of its unit's first message; tools are -1."""
    if kind == "turns":
        return {number: number for number in range(-1, len(messages))}
    if kind != "shots":
        return {}
    last = max((number for number, message in enumerate(messages) if message.role == "user"), default=0)
    found, first = dict[int, int](), -1
    for number, message in enumerate(messages[:last]):
        if message.role == "user" and (first < 0 or messages[number - 1].role != "user"):
            first = number
        if first >= 0 and message.role != "system":
            found[number] = first
    return found


class _UnitList:
    """Units in order, with those of one group merged."""

    def __init__(self, messages: Sequence[Message], kind: UnitKind) -> None:
        self.units: list[PromptUnit] = []
        self._messages, self._groups = messages, group_messages(messages, kind)
        self._numbers: dict[int, int] = {}

    def cut(self, text: str, kind: UnitKind, message: int) -> list[tuple[int, int]]:
        """Places in a text of a message; of a message that is in a group, the whole of it."""
        return cut_text(text, "turns" if message in self._groups else kind)

    def add(self, text: str, message: int, start: int, end: int) -> int:
        """Number of the unit that a stretch belongs to."""
        group = self._groups.get(message)
        number = self._numbers.get(group, len(self.units)) if group is not None else len(self.units)
        if number == len(self.units):
            role = self._messages[message].role if message >= 0 else "tools"
            self.units.append(PromptUnit(text, message, role, start, end))
        else:
            before = self.units[number]
            more = (*before.more, (message, start, end))
            self.units[number] = before._replace(text=f"{before.text.rstrip()}\n{text}", more=more)
        if group is not None:
            self._numbers[group] = number
        return number


def cut_messages(messages: Sequence[Message], kind: UnitKind) -> CutPrompt:
    """Cut the contents of messages, without a tokenizer."""
    found = _UnitList(messages, kind)
    for number, message in enumerate(messages):
        for start, end in found.cut(message.content, kind, number):
            found.add(message.content[start:end], number, start, end)
    return CutPrompt(kind, tuple(unit for unit in found.units if unit.text.strip()))


def refine_cut(coarse: CutPrompt, fine: CutPrompt, chosen: Collection[int]) -> tuple[CutPrompt, list[tuple[int, bool]]]:
    """A prompt in which some units are cut into finer ones, and for each new unit the number of the one that it is or
    is a part of, and whether it is a part. Patches of pictures stay whole."""
    entries: list[tuple[tuple[int, int], PromptUnit, int, bool]] = []
    for number, unit in enumerate(coarse.units):
        is_whole = number not in chosen or unit.patch is not None
        parts = [(unit, False)] if is_whole else [(part, True) for part in _parts(coarse, fine, number)]
        for entry, is_part in parts:
            key = (entry.tokens[0], 0) if coarse.owners else (entry.message, entry.start)
            entries.append((key, entry, number, is_part))
    entries.sort(key=lambda entry: entry[0])
    owners = [-1] * len(coarse.owners)
    for position, (_, entry, _, _) in enumerate(entries):
        for token in entry.tokens:
            owners[token] = position
    cut = CutPrompt(fine.kind, tuple(entry for _, entry, _, _ in entries), tuple(owners))
    return cut, [(number, is_part) for _, _, number, is_part in entries]


def _parts(coarse: CutPrompt, fine: CutPrompt, number: int) -> list[PromptUnit]:
    """The finer units of one unit."""
    if coarse.owners:
        return [unit for unit in fine.units if coarse.owners[unit.tokens[0]] == number]
    stretches = coarse.units[number].stretches
    return [
        unit
        for unit in fine.units
        if any(unit.message == message and start <= unit.start < end for message, start, end in stretches)
    ]


def remove_units(messages: Sequence[Message], units: Sequence[PromptUnit], kept: frozenset[int]) -> tuple[Message, ...]:
    """The messages without the text of the units that are not kept; the role of each message stays."""
    contents = {number: message.content for number, message in enumerate(messages)}
    taken = [stretch for number, unit in enumerate(units) if number not in kept for stretch in unit.stretches]
    for message, start, end in sorted(taken, reverse=True):
        contents[message] = contents[message][:start] + contents[message][end:]
    return tuple(
        message if message.content == contents[number] else message.model_copy(update={"content": contents[number]})
        for number, message in enumerate(messages)
    )


def locate_units(located: LocatedTokens, messages: Sequence[Message], kind: UnitKind) -> CutPrompt:
    """Cut what messages and tools supplied to a rendering, and find the tokens of each unit.

    A token belongs to the unit of its first character that is no white space.
    """
    found = _UnitList(messages, kind)
    owner_of_char = [-1] * len(located.text)
    for piece in located.pieces:
        text = located.text[piece.start : piece.end]
        content = messages[piece.message].content if piece.message >= 0 else text
        offset = max(0, content.find(text)) if piece.part == "content" else 0
        for start, end in found.cut(text, kind, piece.message):
            number = found.add(text[start:end], piece.message, offset + start, offset + end)
            owner_of_char[piece.start + start : piece.start + end] = [number] * (end - start)
    owners = [_find_owner(located, at, owner_of_char) for at in range(len(located.ids))]
    if kind == "tokens":
        return _each_token(located, found.units, owners)
    return _assign_tokens(kind, found.units, owners)


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


def _assign_tokens(kind: UnitKind, found: Sequence[PromptUnit], owners: Sequence[int]) -> CutPrompt:
    """Units with their tokens; those without any are left out."""
    tokens: dict[int, list[int]] = {}
    for at, owner in enumerate(owners):
        if owner >= 0:
            tokens.setdefault(owner, []).append(at)
    order = {number: position for position, number in enumerate(sorted(tokens))}
    units = tuple(found[number]._replace(tokens=tuple(tokens[number])) for number in order)
    return CutPrompt(kind, units, tuple(order.get(owner, -1) for owner in owners))
