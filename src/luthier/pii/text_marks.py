"""Prescan many texts at once: which PII detectors are worth running on each, and where.

Where something may be so, it is said to be so; what is told of numbers is told exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar, get_args

import numpy as np

from luthier.pii import accounts, secrets
from luthier.pii.addresses.context import RULES
from luthier.pii.batch import ConcatenatedTexts, concatenate_into_blocks
from luthier.pii.span import ANY, BEFORE, BEHIND, DIGITS, Area, Mark, TextPrescan

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAMES: tuple[Mark, ...] = get_args(Mark)
_MISSING = [
    frozenset(name for bit, name in enumerate(_NAMES) if not code >> bit & 1) for code in range(1 << len(_NAMES))
]
_ALONE_WORDS = RULES.words("alone_words")
_PLACE_ENDS = ("enue", "alle", "nida", "emin", "vard", "asse", "iale", "azza", "lica")
"""How words end that a street without a number is told by, besides *rue* and *rua*: *avenue*, *calle*, *chemin* …"""
_SHORT_PLACES = ("rue", "rua")
_BOX_ENDS = ("fach", "tale", "tbus", "boks", "tado", "reos")
"""How the names of post-office boxes end, besides *box*: *Postfach*, *boîte postale*, *postbus* …"""
_SMALL = np.uint8(32)
_SHORTEST, _LONGEST = 3, 8


def _packed(word: str) -> int:
    """The last letters of a word as one number; of letters outside of ASCII, their last eight bits."""
    return int.from_bytes(bytes(ord(char) & 255 for char in word[-_LONGEST:]), "big")


_ENDS = {
    length: np.array([_packed(end) for end in ends], dtype=np.int64)
    for length, ends in ((3, _SHORT_PLACES), (4, (*_PLACE_ENDS, *_BOX_ENDS)))
}
"""As numbers, by how many letters they have."""
_NAMES_OF_PLACES = np.array(sorted(map(_packed, _ALONE_WORDS)), dtype=np.int64)
_PLACE, _NAME = np.uint8(1), np.uint8(2)
_BINS = 4093


def _by_last(length: int, bins: int) -> NDArray[np.uint8]:
    """Which words may be one of a place, or a name of one, by their last letters as a number, modulo `bins`."""
    found = np.zeros(bins, dtype=np.uint8)
    for bit, ends in ((_PLACE, (*_PLACE_ENDS, *_BOX_ENDS, *_SHORT_PLACES)), (_NAME, _ALONE_WORDS)):
        found[[(_packed(end[-length:]) | _SMALL_LETTERS[length]) % bins for end in ends]] |= bit
    return found


_SMALL_LETTERS = {2: 0x2020, 3: 0x202020}
_LAST_TWO, _LAST_THREE = _by_last(2, 1 << 16), _by_last(3, _BINS)
_OX = _packed("ox")
Item = TypeVar("Item")
_MOST_BETWEEN = 4


def compute_text_marks(texts: Sequence[str]) -> list[TextPrescan]:
    """The marks of each text."""
    text_prescans: list[TextPrescan] = []
    for _, flat in concatenate_into_blocks(texts):
        text_prescans += [ANY] if flat is None else _of_block(flat)
    return text_prescans


def _of_block(flat: ConcatenatedTexts) -> list[TextPrescan]:
    digits = flat.has("digit")
    long = flat.lengths >= secrets.SHORTEST_KEY
    mixed = digits & (flat.lengths >= accounts.IBAN_BEGINS)
    mixed[mixed] = flat.have("letter", np.flatnonzero(mixed))
    keys = mixed & (flat.lengths >= secrets.SHORTEST_NAMED)
    if secrets.KEY_BEGIN in flat.joined:
        keys |= True
    bits = np.zeros(len(flat.ends), dtype=np.uint8)
    for bit, words in enumerate((digits, long, keys, _may_name_a_place(flat), mixed)):
        bits |= words.view(np.uint8) << np.uint8(bit)
    missing = [_MISSING[code] for code in flat.union(bits).tolist()]
    return list(map(TextPrescan, missing, *_numbers(flat), _long(flat, np.flatnonzero(long))))


def _may_name_a_place(flat: ConcatenatedTexts) -> NDArray[np.bool_]:
    """(words,): by their last letters, and by what may be *s/n*."""
    if "/n" in flat.joined or "/N" in flat.joined:
        return np.ones(len(flat.ends), dtype=bool)
    last, before = (
        flat.codes.take(flat.ends - back, mode="clip").astype(np.uint8).astype(np.uint16) for back in (1, 2)
    )
    two = before << 8 | last | np.uint16(_SMALL_LETTERS[2])
    found: NDArray[np.bool_] = two == _OX
    at = np.flatnonzero(_LAST_TWO.take(two))
    by_three = _LAST_THREE[(_ending(flat, at, 3) | _SMALL_LETTERS[3]) % _BINS]
    at, by_three = at[by_three > 0], by_three[by_three > 0]
    _add_places(flat, at[by_three & _PLACE > 0], found)
    _add_names(flat, at[by_three & _NAME > 0], found)
    return found


def _add_places(flat: ConcatenatedTexts, at: NDArray[np.int64], found: NDArray[np.bool_]) -> None:
    ends = flat.ends[at]
    four = [flat.codes[np.maximum(ends - back, 0)].astype(np.int64) | _SMALL for back in (1, 2, 3, 4)]
    four[3][ends < len(four)] = 0
    three = four[2] << 16 | four[1] << 8 | four[0]
    alone = (four[3] < ord("a")) | (four[3] > ord("z"))
    found[at[np.isin(four[3] << 24 | three, _ENDS[4]) | (np.isin(three, _ENDS[3]) & alone)]] = True


def _add_names(flat: ConcatenatedTexts, at: NDArray[np.int64], found: NDArray[np.bool_]) -> None:
    """Those that may end in one of `_ALONE_WORDS`, and begin with no small letter."""
    first = flat.codes[flat.starts[at]]
    at = at[(first < ord("a")) | (first > ord("z"))]
    for length in range(_SHORTEST, _LONGEST + 1) if len(at) else ():
        found[at[np.isin(_ending(flat, at, length), _NAMES_OF_PLACES)]] = True


def _ending(flat: ConcatenatedTexts, at: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """The last characters of some words as one number, as `_packed` makes it of letters."""
    ends, packed = flat.ends[at], np.zeros(len(at), dtype=np.int64)
    for back in range(length, 0, -1):
        packed <<= 8
        packed |= np.where(ends < back, 0, flat.codes[np.maximum(ends - back, 0)].astype(np.int64) & 255)
    return packed


def _long(flat: ConcatenatedTexts, at: NDArray[np.int64]) -> list[str]:
    """The words at these places, by text."""
    found = [""] * len(flat.texts)
    of = zip(flat.text_of[at].tolist(), flat.starts[at].tolist(), flat.ends[at].tolist(), strict=True)
    for text, start, end in of:
        found[text] += f" {flat.joined[start:end]}"
    return found


def _numbers(flat: ConcatenatedTexts) -> tuple[list[list[Area] | None], list[list[int] | None]]:
    """What `found.areas` says of each text, and where its digits begin; None where characters are not known."""
    at = np.flatnonzero(flat.is_decimal)
    new = np.ones(len(at), dtype=bool)
    np.greater(at[1:] - at[:-1], 1, out=new[1:])
    begins = at[new]
    text_of = np.searchsorted(flat.begins, begins, side="right") - 1
    known = flat.all_known.tolist()
    return _areas(flat, at, known), _by_text(text_of, (begins - flat.begins[text_of]).tolist(), known)


def _areas(flat: ConcatenatedTexts, at: NDArray[np.int64], known: Sequence[bool]) -> list[list[Area] | None]:
    starts, ends = _long_numbers(flat, at)
    text_of = np.searchsorted(flat.begins, starts, side="right") - 1
    begins = flat.begins[text_of]
    same = text_of[1:] == text_of[:-1]
    low, high = starts - begins - BEFORE, ends - begins + BEHIND
    low = np.maximum(low, np.concatenate([[0], np.where(same, ends[:-1] - begins[:-1], 0)])[: len(low)])
    until = np.concatenate(
        [np.where(same, starts[1:] - begins[1:], flat.chars[text_of[:-1]]), flat.chars[text_of[-1:]]]
    )
    found = list(zip(low.tolist(), np.minimum(high, until).tolist(), (ends - starts).tolist(), strict=True))
    return _by_text(text_of, found, known)


def _by_text(text_of: NDArray[np.int64], found: list[Item], known: Sequence[bool]) -> list[list[Item] | None]:
    """What was found in all texts, in order, cut into that of each; None for texts that are not known."""
    edges = np.searchsorted(text_of, np.arange(len(known) + 1)).tolist()
    return [found[one:two] if is_known else None for (one, two), is_known in zip(pairwise(edges), known, strict=True)]


def _long_numbers(flat: ConcatenatedTexts, at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of digits with little between them begin and end, over all texts; `at` are the digits."""
    goes_on = _goes_on(flat, at)
    breaks = np.flatnonzero(~goes_on)
    first, last = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(at) - 1]])
    long = last - first + 1 >= DIGITS
    return at[first[long]], at[last[long]] + 1


def _goes_on(flat: ConcatenatedTexts, at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(digits - 1,): whether a digit and the next have `[^\\w\\n]{0,3}[A-Za-z]?` between them."""
    between = at[1:] - at[:-1] - 1
    found: NDArray[np.bool_] = between == 0
    near = np.flatnonzero((between > 0) & (between <= _MOST_BETWEEN))
    end, count = at[near + 1], between[near]
    last = end - 1
    good = (_stands_between(flat, last) & (count < _MOST_BETWEEN)) | flat.are_ascii_letters(last)
    for back in range(2, _MOST_BETWEEN + 1):
        good &= (count < back) | _stands_between(flat, end - back)
    found[near] = good
    return found


def _stands_between(flat: ConcatenatedTexts, at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the characters at these places are none of words, and no line feed."""
    found: NDArray[np.bool_] = ~flat.are_words(at) & (flat.codes[at] != ord("\n"))
    return found
