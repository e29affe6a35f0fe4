"""Shingles, normal forms and digests of texts, and compact sets of row positions.

Shingles are runs of characters or of words, each as a 64-bit hash. Two texts are equal when their normal forms have
the same digest. Where few positions are missing from a set, only the missing ones are stored.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

import numpy as np
import xxhash

from luthier.data.row import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

Compared = Literal["prompt", "answer", "both"]
"""Which texts of a row are compared with those of others."""


def text_to_compare(row: Row, of: Compared) -> str:
    """What is compared of a row: the answer stands for a prompt that is not there."""
    prompt = row.prompt or row.says
    if of == "both":
        return f"{prompt}\n{row.says}"
    return row.says if of == "answer" else prompt


def normalize_for_comparison(text: str) -> str:
    """A text without its dress: compatibility forms, case and white space do not count."""
    return _remembered(text) if len(text) <= _REMEMBERED_CHARS else _normal(text)


def _normal(text: str) -> str:
    if text.isascii():
        return text.strip(" ").lower() if _has_single_spaces(text) else " ".join(text.lower().split())
    text = unicodedata.normalize("NFKC", text)
    if text.isprintable() and "  " not in text:  # no white space but single spaces
        return text.strip(" ").casefold()
    return " ".join(text.casefold().split())


def _has_single_spaces(text: str) -> bool:
    """Whether an ASCII text has no white space but single spaces; each look for a character takes next to no time."""
    if "  " in text or "\n" in text or "\t" in text or "\r" in text or "\v" in text or "\f" in text:
        return False
    return not ("\x1c" in text or "\x1d" in text or "\x1e" in text or "\x1f" in text)


_SIGN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Signs of Chinese and Japanese: each is a word of its own, for nothing stands between words there."""
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def split_comparison_words(text: str) -> list[str]:
    """The words of a text in its normal form: what stands between spaces, without its punctuation."""
    text = normalize_for_comparison(text)
    if not text.isascii():
        text = _SIGN.sub(r" \g<0> ", text)
    return _PUNCTUATION.sub("", text).split()


def prompt_key(row: Row) -> str:
    """The normal form of what stands before the answer, or of the text itself when nothing stands before it, with the
    digests of what the row shows and plays."""
    text = normalize_for_comparison(row.prompt) or normalize_for_comparison(row.answer)
    return f"{text}\x1d{key}" if (key := row.media_key) else text


_REMEMBERED_CHARS = 4096
_remembered = lru_cache(maxsize=2048)(_normal)
"""Operators that stand side by side ask for the same texts."""


def digest8(text: str) -> int:
    """64 bits of a text."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def digest16(text: str) -> bytes:
    """128 bits of a text."""
    return xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))


IntScalar = TypeVar("IntScalar", np.uint64, np.int64)
Unit = Literal["char", "word"]
_END = "\x03"
"""What padding is made of: a character that no normal form holds."""


class FlatShingles(NamedTuple):
    """Shingle hashes of several texts in one flat array, with the offset of each text."""

    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    """Where each text's pieces begin; one more for the end."""

    def of(self, index: int) -> NDArray[np.uint64]:
        """The pieces of one text; a piece that comes again may stand again."""
        return self.hashes[self.offsets[index] : self.offsets[index + 1]]


def separate_by_media(shingles: FlatShingles, rows: Sequence[Row]) -> FlatShingles:
    """The same pieces where rows show and play the same, or nothing; other ones where they do not."""
    keys = [row.media_key for row in rows]
    if not any(keys):
        return shingles
    salts = np.array([digest8(key) if key else 0 for key in keys], dtype=np.uint64)
    return shingles._replace(hashes=shingles.hashes ^ np.repeat(salts, np.diff(shingles.offsets)))


def cut_shingles(texts: Sequence[str], unit: Unit, size: int) -> FlatShingles:
    """All runs of `size` characters or words of each text; a shorter text is one piece."""
    return _char_runs(texts, size) if unit == "char" else _word_runs(texts, size)


def cut_padded_shingles(texts: Sequence[str], size: int) -> FlatShingles:
    """Runs of characters with the ends padded, and the second `the` told from the first: a bag as a set.

    With them, `d` single-character edits of a text of `n` characters leave a Jaccard similarity of at least
    (n - size d) / (n + size d) (Ukkonen 1992).
    """
    pad = _END * (size - 1)
    flat = _char_runs([f"{pad}{text}{pad}" for text in texts], size)
    return flat._replace(hashes=_numbered(flat))


def word_bags(texts: Sequence[str]) -> FlatShingles:
    """The words of each text without punctuation, the second time one stands there told from the first.

    `d` edits of a text of `n` words leave a Jaccard similarity of at least (n - d) / (n + d).
    """
    flat = _word_runs([" ".join(split_comparison_words(text)) for text in texts], 1)
    return flat._replace(hashes=_numbered(flat))


def _word_runs(texts: Sequence[str], size: int) -> FlatShingles:
    found: list[int] = []
    offsets = [0]
    for text in texts:
        words = text.split()
        last = max(1, len(words) - size + 1)
        found += [digest8(" ".join(words[at : at + size])) for at in range(last)]
        offsets.append(len(found))
    return FlatShingles(np.array(found, np.uint64), np.array(offsets, np.int64))


def _char_runs(texts: Sequence[str], size: int) -> FlatShingles:
    """A polynomial in wrapping 64-bit arithmetic over the characters of all texts at once, then mixed."""
    if not texts:
        return FlatShingles(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    filled = np.maximum(lengths, size)
    ends = np.cumsum(filled)
    rolled = _rolled(_codes("".join([text.ljust(size, _END) for text in texts])), size)
    inside = np.ones(len(rolled), dtype=bool)
    for back in range(1, size):  # what begins so shortly before the end of a text reaches into the next
        inside[ends[:-1] - back] = False
    hashes = rolled[inside]
    offsets = np.concatenate([[0], np.cumsum(filled - size + 1)]).astype(np.int64)
    for index in np.flatnonzero(lengths < size).tolist():
        hashes[offsets[index]] = digest8(texts[index])
    return FlatShingles(hashes, offsets)


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


def _numbered(flat: FlatShingles) -> NDArray[np.uint64]:
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


def sort_unique(hashes: NDArray[IntScalar]) -> NDArray[IntScalar]:
    """Return the sorted distinct hashes; faster than `np.unique` for short arrays, and for millions in a table."""
    found: NDArray[IntScalar] = np.sort(hashes)
    new = np.concatenate([[True], found[1:] != found[:-1]])[: len(found)]
    return np.extract(new, found)


def jaccard(one: NDArray[np.uint64], two: NDArray[np.uint64]) -> float:
    """|A ∩ B| / |A ∪ B| of two arrays without repeats."""
    both = np.concatenate([one, two])
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(one) + len(two) - shared)


class IndexSet(ABC):
    """Different whole numbers in order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice | Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...

    def __getitem__(self, at: int | slice | Sequence[int] | NDArray[np.integer[Any]]) -> int | NDArray[np.int64]:
        return self._one(at) if isinstance(at, int) else self._some(at)

    @abstractmethod
    def below(self, number: int) -> int:
        """How many of them are less than a number."""

    @abstractmethod
    def _one(self, at: int) -> int: ...

    @abstractmethod
    def _some(self, at: slice | Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...


class ComplementIndexSet(IndexSet):
    """The numbers below `count`, without some: eight bytes for each that is missing, none for the others."""

    def __init__(self, count: int, without: NDArray[np.int64] | None = None) -> None:
        """`without` is in order."""
        self._count = count
        self._without = np.zeros(0, dtype=np.int64) if without is None else without
        self._before = self._without - np.arange(len(self._without))

    def __len__(self) -> int:
        return self._count - len(self._without)

    def _one(self, at: int) -> int:
        return at + bisect_right(self._before, at)

    def _some(self, at: slice | Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        indices = np.arange(*at.indices(len(self))) if isinstance(at, slice) else np.asarray(at, dtype=np.int64)
        return indices + np.searchsorted(self._before, indices, "right") if len(self._before) else indices

    def below(self, number: int) -> int:
        """How many of them are less than a number."""
        return number - int(np.searchsorted(self._without, number))

    def at(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where some of them stand."""
        found: NDArray[np.int64] = numbers - np.searchsorted(self._without, numbers)
        return found

    def without(self, numbers: NDArray[np.int64]) -> ComplementIndexSet:
        """The same without some more."""
        return ComplementIndexSet(self._count, sort_unique(np.concatenate([self._without, numbers])))


class ListedIndexSet(IndexSet):
    """Numbers that are kept one by one, where most are missing."""

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        """They are in order."""
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def _one(self, at: int) -> int:
        return int(self._numbers[at])

    def _some(self, at: slice | Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._numbers[at]
        return found

    def below(self, number: int) -> int:
        """How many of them are less than a number."""
        return int(np.searchsorted(self._numbers, number))
