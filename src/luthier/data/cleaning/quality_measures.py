"""Quality measures of a text: shares of words, lines and n-grams, as the papers define them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np

from luthier.pii.patterns import SIGNS

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
TERMINAL_MARKS = tuple('.!?…。！？｡؟۔।॥።՞՜‼⁇⁈⁉"”’»')
POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
C4_TERMINAL_MARKS = (".", "?", "!", '"')
C4_LEAST_WORDS = 5
C4_LONGEST_WORD = 1000
SHORT_LINE_CHARS = 30
_SIGNS = re.compile(f"[{SIGNS}]")
_PARAGRAPH = re.compile(r"\n\n+")
_SENTENCE_END = re.compile(r"[.!?](?=[\"'”’)\]]?(?:\s|$))")
_LONE_HASH = re.compile(r"(?<!\w)#(?!\w)")
BULLETS = ("-", "*", "•", "·", "‣", "◦")
ELLIPSES = ("...", "…")


class TextFeatures:
    """A text taken apart as far as rules ask for it."""

    def __init__(self, text: str, word_count: int | None = None) -> None:
        """`word_count` spares taking the words apart to count them."""
        self.text = text
        self._word_count = word_count

    @cached_property
    def words(self) -> list[str]:
        """What stands between white space."""
        return self.text.split()

    @property
    def word_count(self) -> int:
        """How many words there are."""
        return len(self.words) if self._word_count is None else self._word_count

    @cached_property
    def lines(self) -> list[str]:
        """Lines that hold anything."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What stands between empty lines."""
        return _PARAGRAPH.split(self.text.strip())

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each word comes."""
        return Counter(self.words)

    @cached_property
    def has_repeated_run(self) -> bool:
        """Whether any run of five words comes twice; without one, no longer run does."""
        runs = len(self.words) - 4
        if runs < 2 or len(self.counts) == len(self.words):
            return False
        return len(set(_runs(self.words, 5))) < runs


def _runs(words: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[at:] for at in range(size)), strict=False)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def mean_word_length(text: TextFeatures) -> float:
    return _share(len("".join(text.words)), len(text.words))


def hash_ratio(text: TextFeatures) -> float:
    return _share(text.text.count("#"), len(text.words))


def ellipsis_ratio(text: TextFeatures) -> float:
    return _share(text.text.count("...") + text.text.count("…"), len(text.words))


def symbol_ratio(text: TextFeatures) -> float:
    """Ellipses, and hash signs that touch no word: those of `#late`, `#4711` and `#Person1#` say something."""
    return _share(len(_LONE_HASH.findall(text.text)), len(text.words)) + ellipsis_ratio(text)


def alphabetic_word_share(text: TextFeatures) -> float:
    """The share of words with a letter."""
    odd = [word for word in text.words if not (word.isalpha() or word[0].isalpha())]
    return 1 - _share(sum(1 for word in odd if not any(map(str.isalpha, word))), len(text.words))


def bullet_line_share(text: TextFeatures) -> float:
    return _share(sum(1 for line in text.lines if line.lstrip().startswith(BULLETS)), len(text.lines))


def ellipsis_line_share(text: TextFeatures) -> float:
    return _share(sum(1 for line in text.lines if line.rstrip().endswith(ELLIPSES)), len(text.lines))


def stop_word_count(text: TextFeatures) -> float:
    return len(STOP_WORDS.intersection(text.words))


def repeated_share(parts: Sequence[str]) -> float:
    return _share(len(parts) - len(set(parts)), len(parts))


def repeated_char_share(parts: Sequence[str], chars: int) -> float:
    if len(set(parts)) == len(parts):
        return 0.0
    return _share(sum(len(part) * (count - 1) for part, count in Counter(parts).items()), chars)


def top_ngram_char_share(size: int) -> Callable[[TextFeatures], float]:
    """The share of characters inside the most frequent run of `size` words (the longest, when several are)."""

    def measure(text: TextFeatures) -> float:
        words = text.words
        count = len(words) - size + 1
        if count < 2 or (size > 2 and len(set(_runs(words, size))) == count):
            return 0.0
        runs = Counter(_runs(words, size))
        most = max(runs.values())
        if most < 2:
            return 0.0
        longest = max(sum(map(len, run)) for run, times in runs.items() if times == most) + size - 1
        return _share(longest * most, len(text.text))

    return measure


def repeated_ngram_char_share(size: int) -> Callable[[TextFeatures], float]:
    """The share of characters inside runs of `size` words that came before, none counted twice."""

    def measure(text: TextFeatures) -> float:
        if not text.has_repeated_run:
            return 0.0
        visited: set[tuple[str, ...]] = set()
        chars = free_from = 0
        for at, run in enumerate(_runs(text.words, size)):
            if at < free_from:
                continue
            if run in visited:
                chars += sum(map(len, run))
                free_from = at + size
            else:
                visited.add(run)
        return _share(chars, len(text.text))

    return measure


def distinct_word_share(text: TextFeatures) -> float:
    return _share(len(set(text.text.casefold().split())), len(text.words))


def longest_word_length(text: TextFeatures) -> float:
    """Characters of the longest word; signs of scripts that leave no space between words end one."""
    longest = max(map(len, text.words), default=0)
    if longest <= C4_LONGEST_WORD:
        return longest
    words = (word for word in text.words if "://" not in word)
    return max((len(piece) for word in words for piece in _SIGNS.split(word)), default=0)


def top_char_share(text: TextFeatures) -> float:
    """The share of the most frequent character, white space aside."""
    bare = "".join(text.words)
    if not bare:
        return 0.0
    codes = np.frombuffer(bare.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    counts = np.bincount(codes) if bare.isascii() else np.unique(codes, return_counts=True)[1]
    return int(counts.max()) / len(bare)


def punctuated_line_share(text: TextFeatures) -> float:
    return _share(sum(1 for line in text.lines if line.rstrip().endswith(TERMINAL_MARKS)), len(text.lines))


def short_line_share(text: TextFeatures) -> float:
    return _share(sum(1 for line in text.lines if len(line) < SHORT_LINE_CHARS), len(text.lines))


def is_c4_line_kept(line: str) -> bool:
    """Whether C4 keeps a line: it ends like a sentence, has enough words, and is no notice about scripts or cookies."""
    line = line.strip()
    words = line.split()
    if len(words) < C4_LEAST_WORDS or not line.endswith(C4_TERMINAL_MARKS) or line.endswith("..."):
        return False
    lower = line.lower()
    if "javascript" in lower or any(phrase in lower for phrase in POLICY_PHRASES):
        return False
    return max(map(len, words)) <= C4_LONGEST_WORD


def c4_sentence_count(text: TextFeatures) -> float:
    kept = [line for line in text.lines if is_c4_line_kept(line)]
    return sum(len(_SENTENCE_END.findall(line)) for line in kept)


def phrase_counter(phrase: str) -> Callable[[TextFeatures], float]:
    return lambda text: text.text.lower().count(phrase)
