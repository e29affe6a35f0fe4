"""Many texts as one array of characters, so that words are found, counted and hashed for all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CHARS = 1 << 17
"""Characters of one block: so many, with what is made of them, fit a processor's cache."""
_MOST_TEXTS = 1 << 10
_MULTIPLIER = 0x9E3779B97F4A7C15
_SPACE, _LETTER, _DIGIT, _UNKNOWN, _WORD, _CAPITAL, _DECIMAL = (np.uint8(bit) for bit in (1, 2, 4, 8, 16, 32, 64))
"""Of ASCII capitals, `_CAPITAL` is what makes them small; `_WORD` and `_DECIMAL` are `\\w` and `\\d`."""
_BITS = {"letter": _LETTER, "digit": _DIGIT}
_KNOWN = 0x3001
"""All white space lies below it; letters and digits from here on are not known as such."""


class ConcatenatedTexts:
    """Texts end to end, each with a line feed behind it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.chars = np.fromiter(map(len, texts), np.int64, len(texts))
        """(texts,)"""
        joined = self.joined = "\n".join([*texts, ""])
        self.codes: NDArray[np.uint8] | NDArray[np.uint32]
        """(codes,): one byte each where all are of Latin-1."""
        self.kinds: NDArray[np.uint8]
        """(codes,): bits that say what each character is."""
        try:
            written = joined.encode("latin-1")
        except UnicodeEncodeError:
            self.codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            self.kinds = _table().take(self.codes, mode="clip")
        else:
            self.codes = np.frombuffer(written, dtype=np.uint8)
            self.kinds = np.frombuffer(written.translate(_latin()), dtype=np.uint8)
        space = np.ones(len(self.codes) + 1, dtype=np.uint8)
        np.bitwise_and(self.kinds, _SPACE, out=space[1:])
        edges = np.flatnonzero(space[1:] != space[:-1])
        self.starts, self.ends = edges[0::2], edges[1::2]
        """(words,): words are what stands between white space, as `str.split` sees it."""
        ends = np.cumsum(self.chars + 1)
        self.begins = ends - self.chars - 1
        """(texts,): places of their first characters."""
        self._first = np.searchsorted(self.starts, self.begins)
        self.words: NDArray[np.int64] = np.diff(self._first, append=len(self.starts))
        """(texts,)"""

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(words,): characters of each."""
        return self.ends - self.starts

    @cached_property
    def text_of(self) -> NDArray[np.uint64]:
        """(words,): the place of each one's text."""
        return np.repeat(np.arange(len(self.texts), dtype=np.uint64), self.words)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """(words,): equal words have equal hashes, wherever they stand and whether their ASCII letters are capitals.

        A word is the sum of its characters times powers of an odd number; what the powers begin with where it stands is
        divided out, modulo 2^64.
        """
        powers, inverses = _powers()
        sums = np.zeros(len(self.codes) + 1, dtype=np.uint64)
        small = self.codes + (self.kinds & _CAPITAL)
        np.multiply(small, powers[: len(small)], out=sums[1:])
        np.cumsum(sums, out=sums)
        found = sums[self.ends]
        found -= sums[self.starts]
        found *= inverses[self.starts]
        return mix_hash_bits(found)

    def total(self, of_words: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.int64]:
        """(texts,): the sum of a number of each word."""
        sums = np.zeros(len(of_words) + 1, dtype=np.int64)
        np.cumsum(of_words, out=sums[1:])
        found: NDArray[np.int64] = sums[self._first + self.words] - sums[self._first]
        return found

    def union(self, of_words: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(texts,): all bits that any of its words has."""
        found = np.bitwise_or.reduceat(np.append(of_words, np.uint8(0)), self._first)
        found[self.words == 0] = 0
        return found

    def count(self, of_codes: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(texts,): how many characters are marked."""
        found: NDArray[np.int64] = np.add.reduceat(of_codes, self.begins, dtype=np.int64)
        return found

    def has(self, what: Literal["letter", "digit"]) -> NDArray[np.bool_]:
        """(words,): whether a character is, or may be, a letter or a digit."""
        at = np.flatnonzero((self.kinds & (_BITS[what] | _UNKNOWN)) != 0)
        found = np.zeros(len(self.starts), dtype=bool)
        found[np.searchsorted(self.starts, at, side="right") - 1] = True
        return found

    def have(self, what: Literal["letter", "digit"], words: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The same of some words, by their places."""
        if not len(words):
            return np.zeros(0, dtype=bool)
        edges = np.stack([self.starts[words], self.ends[words]], axis=1).ravel()
        found: NDArray[np.bool_] = np.bitwise_or.reduceat(self.kinds, edges)[::2] & (_BITS[what] | _UNKNOWN) != 0
        return found

    @property
    def is_decimal(self) -> NDArray[np.bool_]:
        """(codes,): whether each surely is what a regular expression means by `\\d`."""
        found: NDArray[np.bool_] = (self.kinds & _DECIMAL) != 0
        return found

    def are_words(self, at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the characters at some places surely are what a regular expression means by `\\w`."""
        found: NDArray[np.bool_] = (self.kinds[at] & _WORD) != 0
        return found

    def are_ascii_letters(self, at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of them is one of a to z, small or capital."""
        small = self.codes[at] | 32
        found: NDArray[np.bool_] = (small >= ord("a")) & (small <= ord("z"))
        return found

    @property
    def all_known(self) -> NDArray[np.bool_]:
        """(texts,): whether it is known of every character what it is."""
        unknown = (self.kinds & _UNKNOWN) != 0
        found: NDArray[np.bool_] = self.count(unknown) == 0 if unknown.any() else np.ones(len(self.texts), dtype=bool)
        return found

    @property
    def begins_with_letter(self) -> NDArray[np.bool_]:
        """(words,): whether the first character is surely a letter."""
        found: NDArray[np.bool_] = (self.kinds[self.starts] & _LETTER) != 0
        return found


def concatenate_into_blocks(texts: Sequence[str]) -> Iterator[tuple[int, ConcatenatedTexts | None]]:
    """Texts cut into blocks, each with the place of its first text; None stands for one text too long for a block."""
    begin = chars = 0
    for index, text in enumerate(texts):
        longer = chars + len(text) + 1
        if index > begin and (longer > MOST_CHARS or index - begin >= _MOST_TEXTS):
            yield begin, _block(texts[begin:index])
            begin, longer = index, len(text) + 1
        chars = longer
    if texts:
        yield begin, _block(texts[begin:])


def _block(texts: Sequence[str]) -> ConcatenatedTexts | None:
    return None if len(texts) == 1 and len(texts[0]) >= MOST_CHARS else ConcatenatedTexts(texts)


def mix_hash_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The same array with every bit of a number spread over all of it."""
    values ^= values >> np.uint64(32)
    values *= np.uint64(0xD6E8FEB86659FD93)
    values ^= values >> np.uint64(29)
    return values


def find_hash_bin_collisions(numbers: NDArray[np.uint64], bits: int) -> NDArray[np.bool_]:
    """Which numbers share a bin, of 2^bits, with another: all that come more than once, and few others to be sorted."""
    bins = numbers * np.uint64(_MULTIPLIER)
    bins >>= np.uint64(64 - bits)
    indices = bins.view(np.int64)
    found: NDArray[np.bool_] = np.bincount(indices, minlength=1 << bits).take(indices) > 1
    return found


@cache
def _table() -> NDArray[np.uint8]:
    chars = [chr(code) for code in range(_KNOWN)]
    kinds = np.zeros(_KNOWN + 1, dtype=np.uint8)
    tests = {
        _SPACE: str.isspace,
        _LETTER: str.isalpha,
        _DIGIT: str.isdigit,
        _WORD: str.isalnum,
        _DECIMAL: str.isdecimal,
    }
    for bit, is_one in tests.items():
        kinds[:_KNOWN] |= bit * np.array([is_one(char) for char in chars], dtype=np.uint8)
    kinds[ord("_")] |= _WORD
    kinds[ord("A") : ord("Z") + 1] |= _CAPITAL
    kinds[_KNOWN] = _UNKNOWN
    return kinds


@cache
def _latin() -> bytes:
    """The table of Latin-1, for `bytes.translate`."""
    return _table()[:256].tobytes()


@cache
def _powers() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Powers of the multiplier and of its inverse modulo 2^64, for every place of a block."""
    inverse = pow(_MULTIPLIER, -1, 1 << 64)
    return tuple(np.cumprod(np.full(MOST_CHARS + 1, entry, dtype=np.uint64)) for entry in (_MULTIPLIER, inverse))  # type: ignore[return-value]  # two of them
