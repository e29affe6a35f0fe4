"""Token ids of a rendering in which only the template's own special tokens count; those that users typed stay text.

Works on a copy of the tokenizer that knows the special tokens under other spellings, of the same length, made of
private-use characters. The template's special tokens are respelled before encoding; anything else that looks like one
is ordinary text to that copy. All other settings of the tokenizer (normalization, added words, white space beside
special tokens) act as ever, so clean conversations get the ids that the tokenizer itself would give.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.chat.spans import RenderedSegment
from luthier.core.errors import DataError, ModelError, SourceLocation

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PLANE, _BLOCK, _BLOCKS = 0x100000, 4096, 15
_SINGLES = 1024
_PRIVATE = re.compile("[\U00100000-\U0010ffff]")


class TokensWithOffsets(NamedTuple):
    """Ids, and for each token the place in the rendering of its first character and of the end of its last."""

    ids: list[int]
    starts: list[int]
    ends: list[int]


class SpecialTokenSpan(NamedTuple):
    """A special token that stands in a rendering."""

    start: int
    end: int


class EncodingRequest(NamedTuple):
    """A rendering to encode: which of its special tokens count, and the places that no token may reach across."""

    text: str
    controls: Sequence[SpecialTokenSpan]
    boundaries: Sequence[int] = ()


@dataclass(frozen=True)
class GuardedEncoder:
    """Tokenizes rendered chats so that special tokens spelled out in message texts stay plain text. `template` is the
    text of the chat template, whose literal added words are guarded too."""

    backend: Tokenizer
    template: str

    @cached_property
    def special(self) -> frozenset[str]:
        """Special tokens proper: as text in every content, whoever wrote it."""
        return frozenset(token.content for token in self.backend.get_added_tokens_decoder().values() if token.special)

    @cached_property
    def tags(self) -> frozenset[str]:
        """Added words such as `<tool_call>` that the template itself writes: as text in user turns and tool results."""
        added = (token.content for token in self.backend.get_added_tokens_decoder().values() if not token.special)
        return frozenset(word for word in added if len(word) > 2 and not word.isspace() and word in self.template)

    def holds_special(self, text: str) -> bool:
        """Whether a special token is spelled out somewhere in a text."""
        return self._special.search(text) is not None

    def controls(self, text: str, pieces: Sequence[RenderedSegment], roles: Sequence[str]) -> list[SpecialTokenSpan]:
        """The special tokens of a rendering that the template wrote (and the tags that an assistant may write)."""
        token_spans: list[SpecialTokenSpan] = []
        edge = 0
        for piece in pieces:
            token_spans += _hits(self._any, text, edge, piece.start)
            role = roles[piece.message] if piece.message >= 0 else "system"
            if role not in ("user", "tool"):
                token_spans += _hits(self._tag, text, max(edge, piece.start), piece.end)
            edge = max(edge, piece.end)
        return token_spans + _hits(self._any, text, edge, len(text))

    def is_special(self, text: str, control: SpecialTokenSpan) -> bool:
        """Whether a control is a special token proper, not a tag."""
        return text[control.start : control.end] in self.special

    def encode(self, rows: Sequence[EncodingRequest]) -> list[TokensWithOffsets]:
        """Tokens of many renderings at once."""
        blocks = [_free_block(row.text) for row in rows]
        done: dict[int, TokensWithOffsets] = {}
        for block in sorted(set(blocks)):
            numbers = [number for number, own in enumerate(blocks) if own == block]
            copy = self._copies(block)
            guarded = [copy.respelled(rows[number]) for number in numbers]
            encodings = copy.backend.encode_batch(guarded, add_special_tokens=False)
            with_offsetses = [_tokens(encoding.ids, encoding.offsets, copy.wall) for encoding in encodings]
            done |= dict(zip(numbers, with_offsetses, strict=True))
        return [done[number] for number in range(len(rows))]

    def _copies(self, block: int) -> _Copy:
        if block not in self._built:
            self._built[block] = _copy(self.backend, sorted(self.special | self.tags), _PLANE + block * _BLOCK)
        return self._built[block]

    @cached_property
    def _built(self) -> dict[int, _Copy]:
        return {}

    @cached_property
    def _any(self) -> re.Pattern[str]:
        return _pattern(self.special | self.tags)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return _pattern(self.special)

    @cached_property
    def _tag(self) -> re.Pattern[str]:
        return _pattern(self.tags)


@dataclass(frozen=True)
class _Copy:
    backend: Tokenizer
    spelling: dict[str, str]
    wall: int
    wall_text: str

    def respelled(self, row: EncodingRequest) -> str:
        text, parts, edge = row.text, [], 0
        for control in row.controls:
            parts += [text[edge : control.start], self.spelling[text[control.start : control.end]]]
            edge = control.end
        guarded = "".join([*parts, text[edge:]])
        for position in sorted(set(row.boundaries), reverse=True):
            guarded = guarded[:position] + self.wall_text + guarded[position:]
        return guarded


def _tokens(ids: list[int], offsets: list[tuple[int, int]], wall: int) -> TokensWithOffsets:
    if wall not in ids:
        return TokensWithOffsets(ids, [start for start, _ in offsets], [end for _, end in offsets])
    kept, starts, ends, passed = [], [], [], 0
    for token, (start, end) in zip(ids, offsets, strict=True):
        if token == wall:
            passed += 1
            continue
        kept.append(token)
        starts.append(start - passed)
        ends.append(end - passed)
    return TokensWithOffsets(kept, starts, ends)


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the words, a longer one before one that it begins with; nothing when there is none."""
    return re.compile("|".join(map(re.escape, sorted(words, key=lambda word: (-len(word), word)))) or r"(?!)")


def _hits(pattern: re.Pattern[str], text: str, start: int, end: int) -> list[SpecialTokenSpan]:
    return [SpecialTokenSpan(match.start(), match.end()) for match in pattern.finditer(text, start, end)]


def _free_block(text: str) -> int:
    used = {(ord(char) - _PLANE) // _BLOCK for char in _PRIVATE.findall(text)}
    for block in range(_BLOCKS):
        if block not in used:
            return block
    raise DataError("the text uses nearly all private-use characters of Unicode", hint="clean the text first")


def _copy(backend: Tokenizer, words: Sequence[str], first: int) -> _Copy:
    """The tokenizer with other spellings for `words`, made of the block of characters that begins at `first`."""
    from tokenizers import Tokenizer

    spelling = _spellings(words, first)
    made = json.loads(backend.to_str())
    made.update(truncation=None, padding=None, post_processor=None)
    _respell(made["model"], spelling)
    for token in made["added_tokens"]:
        token["content"] = spelling.get(token["content"], token["content"])
    copy = Tokenizer.from_str(json.dumps(made))
    wall_text = chr(first)
    copy.add_special_tokens([wall_text])
    wall = copy.token_to_id(wall_text)
    kept = all(copy.token_to_id(spelled) == backend.token_to_id(word) for word, spelled in spelling.items())
    if wall is None or not kept:
        raise ModelError(
            "the tokenizer cannot keep special tokens apart from text: they change their ids when respelled",
            where=SourceLocation(field="tokenizer.json"),
            hint="save the tokenizer again with a current version of transformers",
        )
    return _Copy(copy, spelling, wall, wall_text)


def _spellings(words: Sequence[str], first: int) -> dict[str, str]:
    """A private spelling of the same length for each word. The first character begins a spelling and is never inside
    one, so that spellings in a row cannot be read as one another."""
    spelling: dict[str, str] = {}
    counts: dict[int, int] = {}
    for word in words:
        length, number = len(word), counts.get(len(word), 0)
        counts[length] = number + 1
        if length == 1:
            spelling[word] = chr(first + 2 + number)
            continue
        digits = []
        for _ in range(length - 1):
            number, digit = divmod(number, _BLOCK - _SINGLES)
            digits.append(chr(first + _SINGLES + digit))
        spelling[word] = chr(first + 1) + "".join(digits)
    return spelling


def _respell(model: dict[str, Any], spelling: dict[str, str]) -> None:
    """Renames words in a tokenizer's vocabulary, whatever its kind, so that no text can reach their ids."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {spelling.get(word, word): number for word, number in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[spelling.get(word, word), score] for word, score in vocabulary]
    if model.get("unk_token") in spelling:
        model["unk_token"] = spelling[model["unk_token"]]
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if not _makes(merge, spelling)]


def _makes(merge: str | list[str], spelling: dict[str, str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in spelling or right in spelling or left + right in spelling
