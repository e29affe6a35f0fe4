"""Cheap bounds of quality measures, computed before a text is split into words.

Measured for a block of texts at once; most texts are cleared of most rules by this, and only the rest is looked at
closely. Words count as equal when their hashes are (with ASCII capitals as small letters), so that two different ones
may pass for equal, but never two equal ones for different: what is bounded from above by repetition stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.data.cleaning.quality_measures import BULLETS, SHORT_LINE_CHARS, STOP_WORDS, TERMINAL_MARKS
from luthier.pii.batch import ConcatenatedTexts, find_hash_bin_collisions, mix_hash_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEVER = float("inf")
_LONGEST_STOP_WORD = 4


def _code(word: str) -> int:
    """Its letters as one number, sixteen bits each."""
    return sum(ord(char) << 16 * index for index, char in enumerate(word))


_STOP_CODES = np.array(sorted(map(_code, STOP_WORDS)), dtype=np.uint64)
"""There are eight, so that a byte tells which of them a text has."""
_BITS_IN = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.float64)
_LAST_BITS = np.uint64((1 << 16) - 1)
_TEXT_BITS, _LENGTH_BITS = 10, 10
_LENGTH_MASK = np.uint64((1 << _LENGTH_BITS) - 1)
_TEXT_SHIFT = np.uint64(64 - _TEXT_BITS)
_HASH_MASK = np.uint64((1 << (64 - _TEXT_BITS)) - (1 << _LENGTH_BITS))
_BIN_BITS = 17
_PAIR, _FIVE = 2, 5
_LITTLE = 0.1
"""Where repeated pairs take no more of a text, longer runs are not looked for."""


class MeasureBounds(NamedTuple):
    """Lower and upper bounds of a quality measure for each text, as arrays of shape (texts,)."""

    least: NDArray[np.float64]
    most: NDArray[np.float64]


def bound_word_count(texts: ConcatenatedTexts) -> MeasureBounds:
    """Exactly."""
    return _exactly(texts.words.astype(np.float64))


def bound_mean_word_length(texts: ConcatenatedTexts) -> MeasureBounds:
    """Exactly."""
    return _exactly(_shares(texts.total(texts.lengths), texts.words))


def bound_hash_ratio(texts: ConcatenatedTexts) -> MeasureBounds:
    """Exactly."""
    return _exactly(_shares(_counts(texts, "#"), texts.words))


def bound_ellipsis_ratio(texts: ConcatenatedTexts) -> MeasureBounds:
    """Exactly."""
    return _exactly(_shares(_ellipses(texts), texts.words))


def bound_symbol_ratio(texts: ConcatenatedTexts) -> MeasureBounds:
    """Bound the symbol ratio: at least that of ellipses, at most that of ellipses and all hash signs together."""
    return MeasureBounds(
        bound_ellipsis_ratio(texts).least, bound_hash_ratio(texts).least + bound_ellipsis_ratio(texts).least
    )


def bound_bullet_line_share(texts: ConcatenatedTexts) -> MeasureBounds:
    """Bound the share of bullet lines: 0 where the only line is no bullet, otherwise between 0 and 1."""
    return _up_to_one(["\n" in text or text.lstrip().startswith(BULLETS) for text in texts.texts])


def bound_ellipsis_line_share(texts: ConcatenatedTexts) -> MeasureBounds:
    """Bound the share of lines that end with an ellipsis: 0 where the text has none, otherwise between 0 and 1."""
    return _up_to_one(_ellipses(texts) > 0)


def bound_alphabetic_word_share(texts: ConcatenatedTexts) -> MeasureBounds:
    """Bound the share of words with a letter: at least the share of words that begin with one."""
    others = texts.words - texts.total(texts.begins_with_letter)
    return MeasureBounds(1 - _shares(others, texts.words), np.ones(len(texts.texts)))


def bound_stop_word_count(texts: ConcatenatedTexts) -> MeasureBounds:
    """Count the distinct stop words exactly, by hash and then by letters."""
    at = np.flatnonzero(_likely_stop_words().take((texts.hashes & _LAST_BITS).view(np.int64)))
    written = _letters(texts, at)
    number = np.minimum(np.searchsorted(_STOP_CODES, written), len(_STOP_CODES) - 1)
    at, number = (part[_STOP_CODES[number] == written] for part in (at, number))
    found = np.zeros(len(texts.lengths), dtype=np.uint8)
    found[at] = np.uint8(1) << number.astype(np.uint8)
    return _exactly(_BITS_IN[texts.union(found)])


@cache
def _likely_stop_words() -> NDArray[np.bool_]:
    """Which words may be stop words, by the last bits of their hashes."""
    found = np.zeros(int(_LAST_BITS) + 1, dtype=bool)
    found[ConcatenatedTexts(sorted(STOP_WORDS)).hashes & _LAST_BITS] = True
    return found


def _letters(texts: ConcatenatedTexts, at: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Some words as numbers, as `_code` makes them; 0 for those that are longer than any stop word."""
    starts, lengths = texts.starts[at], texts.lengths[at]
    written = np.zeros(len(at), dtype=np.uint64)
    for index in range(_LONGEST_STOP_WORD):
        codes = np.minimum(texts.codes.take(starts + index, mode="clip").astype(np.uint64), _LAST_BITS)
        codes[lengths <= index] = 0
        written |= codes << np.uint64(16 * index)
    written[lengths > _LONGEST_STOP_WORD] = 0
    return written


def bound_repeated_lines(texts: ConcatenatedTexts) -> MeasureBounds:
    """Bound the share of repeated lines: 0 for a single line, otherwise between 0 and 1."""
    return _up_to_one(["\n" in text for text in texts.texts])


def bound_repeated_paragraphs(texts: ConcatenatedTexts) -> MeasureBounds:
    """Bound the share of repeated paragraphs: 0 for a single paragraph, otherwise between 0 and 1."""
    return _up_to_one(["\n\n" in text for text in texts.texts])


def bound_punctuated_line_share(texts: ConcatenatedTexts) -> MeasureBounds:
    """Bound the share of lines with end punctuation: 1 where the only line ends so, otherwise between 0 and 1."""
    ends = [text.rstrip().endswith(TERMINAL_MARKS) and "\n" not in text for text in texts.texts]
    return MeasureBounds(np.array(ends, dtype=np.float64), np.ones(len(ends)))


def bound_short_line_share(texts: ConcatenatedTexts) -> MeasureBounds:
    """Bound the share of short lines: 0 where the only line is long, otherwise between 0 and 1."""
    return _up_to_one(["\n" in text or len(text) < SHORT_LINE_CHARS for text in texts.texts])


def bound_top_ngram_share(size: int) -> Callable[[ConcatenatedTexts], MeasureBounds]:
    """Of a run that comes c times, all its pairs of words come c times: one pair covers two words, two pairs four."""

    def ahead(texts: ConcatenatedTexts) -> MeasureBounds:
        pairs = 1 if size == _PAIR else 2
        return _below(_shares(pairs * _pairs(texts).widest, texts.chars))

    return ahead


def bound_repeated_ngram_share(texts: ConcatenatedTexts) -> MeasureBounds:
    """Every word of a repeated run of five or more stands in a run of five (and in a pair) that came before."""
    return _below(_shares(_repeated_chars(texts), texts.chars))


def bound_top_char_share(texts: ConcatenatedTexts) -> MeasureBounds:
    """At most the larger part when all characters are parted by a bit of their codes."""
    solid = (texts.kinds & 1) == 0
    all_of = texts.total(texts.lengths)
    most = all_of
    for bit in range(4):
        ones = texts.count(((texts.codes >> bit) & 1).astype(bool) & solid)
        most = np.minimum(most, np.maximum(ones, all_of - ones))
    return _below(_shares(most, all_of))


def bound_longest_word(texts: ConcatenatedTexts) -> MeasureBounds:
    """At most the longest, whatever it is."""
    return _below(_most(texts, texts.lengths).astype(np.float64))


def bound_distinct_word_share(texts: ConcatenatedTexts) -> MeasureBounds:
    """At least the different ones among those of ASCII letters, whose small form is known."""
    plain = _plain_words(texts)
    keys = _keys(texts.text_of[plain], texts.hashes[plain], texts.lengths[plain])
    keys.sort()
    new = keys[np.flatnonzero(_is_new(keys))]
    count = np.bincount((new >> _TEXT_SHIFT).astype(np.int64), minlength=len(texts.texts))
    return MeasureBounds(_shares(count, texts.words), np.ones(len(texts.texts)))


class _Repeats(NamedTuple):
    """What comes more than once in a text, of all runs of so many words."""

    widest: NDArray[np.float64]
    """(texts,): the most room that one such run takes, with a space for each of its words."""
    again: NDArray[np.float64]
    """(texts,): characters of all that came before, spaces aside; what overlaps counts each time."""


@lru_cache(maxsize=2)
def _pairs(texts: ConcatenatedTexts) -> _Repeats:
    """Repeats among pairs of words; several measures ask for them."""
    return _runs(texts, _PAIR, np.ones(len(texts.texts), dtype=bool))


def _runs(texts: ConcatenatedTexts, size: int, among: NDArray[np.bool_]) -> _Repeats:
    """Repeats among runs of words, in some of the texts."""
    text_of = texts.text_of
    last = max(0, len(text_of) - size + 1)
    is_asked = (text_of[size - 1 :] == text_of[:last]) & np.repeat(among, texts.words)[:last]
    lengths, keys = texts.lengths[:last].copy(), texts.hashes[:last].copy()
    for step in range(1, size):
        keys *= np.uint64(0x9E3779B97F4A7C15)
        keys += texts.hashes[step : step + last]
        lengths += texts.lengths[step : step + last]
    return _repeats(_keys(text_of[:last], mix_hash_bits(keys), lengths)[is_asked], size, texts)


def _repeats(keys: NDArray[np.uint64], size: int, texts: ConcatenatedTexts) -> _Repeats:
    keys = keys.compress(find_hash_bin_collisions(keys, _BIN_BITS))
    keys.sort()
    begins = np.flatnonzero(_is_new(keys))
    counts = np.diff(begins, append=len(keys))
    often = np.flatnonzero(counts > 1)
    found, counts = keys[begins[often]], counts[often]
    text_of = (found >> _TEXT_SHIFT).astype(np.int64)
    lengths = (found & _LENGTH_MASK).astype(np.int64)
    widest = np.zeros(len(texts.texts))
    np.maximum.at(widest, text_of, (counts * (lengths + size)).astype(np.float64))
    again = np.bincount(text_of, weights=(counts - 1) * lengths, minlength=len(widest)).astype(np.float64)
    untold = text_of[lengths == int(_LENGTH_MASK)]
    again[untold] = widest[untold] = _NEVER
    return _Repeats(widest, again)


@lru_cache(maxsize=2)
def _repeated_chars(texts: ConcatenatedTexts) -> NDArray[np.float64]:
    """(texts,): characters that repeated runs of five or more words have at most."""
    pairs = _pairs(texts).again
    among = pairs > _LITTLE * texts.chars
    return np.where(among, np.minimum(pairs, _runs(texts, _FIVE, among).again), pairs) if among.any() else pairs


def _keys(text_of: NDArray[np.uint64], hashes: NDArray[np.uint64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The text, a hash of 44 bits and the length (as far as ten bits tell) in one number."""
    found = hashes & _HASH_MASK
    found |= text_of << _TEXT_SHIFT
    found |= np.minimum(lengths, int(_LENGTH_MASK)).astype(np.uint64)
    return found


def _is_new(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Where sorted keys differ from the one before."""
    found = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=found[1:])
    return found


def _plain_words(texts: ConcatenatedTexts) -> NDArray[np.int64]:
    """Words without a character beyond ASCII."""
    if texts.joined.isascii():
        return np.arange(len(texts.starts))
    odd = np.zeros(len(texts.codes) + 1, dtype=np.int64)
    np.cumsum(texts.codes > 0x7F, out=odd[1:])
    return np.flatnonzero(odd[texts.ends] == odd[texts.starts])


def _counts(texts: ConcatenatedTexts, piece: str) -> NDArray[np.int64]:
    if piece not in texts.joined:
        return np.zeros(len(texts.texts), dtype=np.int64)
    return np.array([text.count(piece) for text in texts.texts], dtype=np.int64)


def _ellipses(texts: ConcatenatedTexts) -> NDArray[np.int64]:
    return _counts(texts, "...") + _counts(texts, "…")


def _most(texts: ConcatenatedTexts, of_words: NDArray[np.int64]) -> NDArray[np.int64]:
    found = np.zeros(len(texts.texts), dtype=np.int64)
    np.maximum.at(found, texts.text_of.astype(np.int64), of_words)
    return found


def _shares(parts: NDArray[np.generic], wholes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Parts of wholes; of nothing, none."""
    found = np.zeros(len(wholes))
    np.divide(parts, wholes, out=found, where=wholes != 0)
    return found


def _exactly(values: NDArray[np.float64]) -> MeasureBounds:
    return MeasureBounds(values, values)


def _below(values: NDArray[np.float64]) -> MeasureBounds:
    return MeasureBounds(np.zeros(len(values)), values)


def _up_to_one(unknown: Sequence[bool] | NDArray[np.bool_]) -> MeasureBounds:
    """Nothing, but for the texts of which that is not known."""
    return _below(np.asarray(unknown, dtype=np.float64))
