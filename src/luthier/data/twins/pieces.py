"""Texts as sets of short pieces: runs of characters or of words, each as a 64-bit hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np

from luthier.data.twins.text_keys import digest8, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

Whole = TypeVar("Whole", np.uint64, np.int64)
Unit = Literal["char", "word"]
_END = "\x03"
"""What padding is made of: a character that no normal form holds."""


class Flat(NamedTuple):
    """Pieces of several texts, end to end."""

    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    """Where each text's pieces begin; one more for the end."""

    def of(self, place: int) -> NDArray[np.uint64]:
        """The pieces of one text; a piece that comes again may stand again."""
        return self.hashes[self.offsets[place] : self.offsets[place + 1]]


def pieces(texts: Sequence[str], unit: Unit, size: int) -> Flat:
    """All runs of `size` characters or words of each text; a shorter text is one piece."""
    return _char_runs(texts, size) if unit == "char" else _word_runs(texts, size)


def padded_pieces(texts: Sequence[str], size: int) -> Flat:
    """Runs of characters with the ends padded, and the second `the` told from the first: a bag as a set.

    With them, `d` single-character edits of a text of `n` characters leave a Jaccard similarity of at least
    (n - size d) / (n + size d) (Ukkonen 1992).
    """
    pad = _END * (size - 1)
    flat = _char_runs([f"{pad}{text}{pad}" for text in texts], size)
    return flat._replace(hashes=_numbered(flat))


def word_bags(texts: Sequence[str]) -> Flat:
    """The words of each text without punctuation, the second time one stands there told from the first.

    `d` edits of a text of `n` words leave a Jaccard similarity of at least (n - d) / (n + d).
    """
    flat = _word_runs([" ".join(words(text)) for text in texts], 1)
    return flat._replace(hashes=_numbered(flat))


def _word_runs(texts: Sequence[str], size: int) -> Flat:
    found: list[int] = []
    offsets = [0]
    for text in texts:
        words = text.split()
        last = max(1, len(words) - size + 1)
        found += [digest8(" ".join(words[at : at + size])) for at in range(last)]
        offsets.append(len(found))
    return Flat(np.array(found, np.uint64), np.array(offsets, np.int64))


def _char_runs(texts: Sequence[str], size: int) -> Flat:
    """A polynomial in wrapping 64-bit arithmetic over the characters of all texts at once, then mixed."""
    if not texts:
        return Flat(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    filled = np.maximum(lengths, size)
    ends = np.cumsum(filled)
    rolled = _rolled(_codes("".join([text.ljust(size, _END) for text in texts])), size)
    inside = np.ones(len(rolled), dtype=bool)
    for back in range(1, size):  # what begins so shortly before the end of a text reaches into the next
        inside[ends[:-1] - back] = False
    hashes = rolled[inside]
    offsets = np.concatenate([[0], np.cumsum(filled - size + 1)]).astype(np.int64)
    for place in np.flatnonzero(lengths < size).tolist():
        hashes[offsets[place]] = digest8(texts[place])
    return Flat(hashes, offsets)


def _codes(text: str) -> NDArray[np.uint64]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.uint64)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)


def _rolled(codes: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """A hash of every run of `size` codes."""
    count = len(codes) - size + 1
    codes += np.uint64(1)
    total = codes[:count].copy()
    for offset in range(1, size):
        total *= np.uint64(0x9E3779B97F4A7C15)
        total += codes[offset : offset + count]
    return _mixed(total)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values ^= values >> np.uint64(32)
    values *= np.uint64(0xD6E8FEB86659FD93)
    values ^= values >> np.uint64(29)
    return values


def _numbered(flat: Flat) -> NDArray[np.uint64]:
    """Hashes that differ for the first, second, … time a piece stands in one text."""
    text = np.repeat(np.arange(len(flat.offsets) - 1), np.diff(flat.offsets))
    order = np.lexsort((flat.hashes, text))
    hashes, text = flat.hashes[order], text[order]
    new = np.concatenate([[True], (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])])[: len(hashes)]
    first = np.flatnonzero(new)
    times = np.arange(len(hashes)) - np.repeat(first, np.diff([*first.tolist(), len(hashes)]))
    found = np.empty_like(flat.hashes)
    found[order] = _mixed(hashes + times.astype(np.uint64) * np.uint64(0xA0761D6478BD642F))
    return found


def distinct(hashes: NDArray[Whole]) -> NDArray[Whole]:
    """Each number once, sorted: `np.unique` takes three times as long for short arrays, and for millions in a table."""
    found: NDArray[Whole] = np.sort(hashes)
    new = np.concatenate([[True], found[1:] != found[:-1]])[: len(found)]
    return np.extract(new, found)


def jaccard(one: NDArray[np.uint64], two: NDArray[np.uint64]) -> float:
    """|A ∩ B| / |A ∪ B| of two arrays without repeats."""
    both = np.concatenate([one, two])
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(one) + len(two) - shared)
