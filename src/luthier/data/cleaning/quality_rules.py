"""Published rules that tell usable text from rubbish: what each measures, its limits, and where they come from.

    gopher    Rae et al. 2021, arXiv:2112.11446, appendix A1.1 and table A1
    c4        Raffel et al. 2020, JMLR 21(140), section 2.2, with the constants of its own code (`c4_utils.py`)
    fineweb   Penedo et al. 2024, arXiv:2406.17557, section 3.6
    chat      for questions and answers of any length, which the three above would break by chance

Words are what stands between white space; the papers do not say more. Gopher's stop words and C4's phrases are English.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np

RuleSet = Literal["chat", "gopher", "c4", "fineweb"]

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
_PARAGRAPH = re.compile(r"\n\n+")
_SENTENCE_END = re.compile(r"[.!?](?=[\"'”’)\]]?(?:\s|$))")
_BULLETS = ("-", "*", "•", "·", "‣", "◦")
_ELLIPSES = ("...", "…")


class Text:
    """A text taken apart as far as rules ask for it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = text.split()

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
    def widest(self) -> int:
        """The most characters that one word takes over the whole text, with a space each time."""
        return max([count * (len(word) + 1) for word, count in self.counts.items()], default=0)

    @cached_property
    def has_repeated_run(self) -> bool:
        """Whether any run of five words comes twice; without one, no longer run does."""
        runs = len(self.words) - 4
        if runs < 2 or len(self.counts) == len(self.words):
            return False
        return len(set(_runs(self.words, 5))) < runs


class Rule(NamedTuple):
    """Text is broken when the measure lies outside the limits."""

    name: str
    measure: Callable[[Text], float]
    least: float
    most: float
    source: str
    from_words: int = 0
    """Shorter texts are not judged by this rule."""
    from_chars: int = 0
    """Nor are texts with fewer characters."""
    open: bool = False
    """A measure that equals a limit is broken, too."""
    bound: Callable[[Text], float] | None = None
    """What the measure never exceeds, when that is known at less cost."""
    floor: Callable[[Text], float] | None = None
    """What the measure never falls below, likewise; for measures that cannot be too high."""

    def breaks(self, text: Text) -> float | None:
        """The measure, when it breaks the rule."""
        if len(text.words) < self.from_words or len(text.text) < self.from_chars:
            return None
        if self.bound is not None and self.bound(text) <= self.most:
            return None
        if self.floor is not None and self.floor(text) >= self.least:
            return None
        value = self.measure(text)
        inside = self.least < value < self.most if self.open else self.least <= value <= self.most
        return None if inside else value

    def within(self, least: float | None, most: float | None) -> Rule:
        """The rule with other limits, where one is given."""
        return self._replace(
            least=self.least if least is None else least, most=self.most if most is None else most, source="your limits"
        )

    def says(self, value: float) -> str:
        """The measure beside the limit that it breaks, with the limit's source."""
        too_low = value < self.least or (self.open and value == self.least)
        sign = ("over" if self.open else "at least") if too_low else ("under" if self.open else "at most")
        return f"{value:.4g}, wanted {sign} {self.least if too_low else self.most:g} ({self.source})"


def _runs(words: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[at:] for at in range(size)), strict=False)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mean_word(text: Text) -> float:
    return _share(len("".join(text.words)), len(text.words))


def _hashes(text: Text) -> float:
    return _share(text.text.count("#"), len(text.words))


def _ellipses(text: Text) -> float:
    return _share(text.text.count("...") + text.text.count("…"), len(text.words))


def _symbols(text: Text) -> float:
    return _hashes(text) + _ellipses(text)


def _alphabetic(text: Text) -> float:
    """The share of words with a letter."""
    odd = [word for word in text.words if not (word.isalpha() or word[0].isalpha())]
    return 1 - _share(sum(1 for word in odd if not any(map(str.isalpha, word))), len(text.words))


def _wholly_alphabetic(text: Text) -> float:
    return _share(sum(map(str.isalpha, text.words)), len(text.words))


def _bullets(text: Text) -> float:
    return _share(sum(1 for line in text.lines if line.lstrip().startswith(_BULLETS)), len(text.lines))


def _ellipsis_lines(text: Text) -> float:
    return _share(sum(1 for line in text.lines if line.rstrip().endswith(_ELLIPSES)), len(text.lines))


def _stop_words(text: Text) -> float:
    return len(STOP_WORDS.intersection(text.counts))


def _repeated(parts: Sequence[str]) -> float:
    return _share(len(parts) - len(set(parts)), len(parts))


def _repeated_chars(parts: Sequence[str], chars: int) -> float:
    if len(set(parts)) == len(parts):
        return 0.0
    return _share(sum(len(part) * (count - 1) for part, count in Counter(parts).items()), chars)


def _top_run(size: int) -> Callable[[Text], float]:
    """The share of characters inside the most frequent run of `size` words (the longest, when several are)."""

    def measure(text: Text) -> float:
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


def _top_bound(size: int) -> Callable[[Text], float]:
    """A run of words comes no more often than each of them, so it takes no more room than they do together."""
    return lambda text: _share(size * text.widest, len(text.text))


def _repeated_runs(size: int) -> Callable[[Text], float]:
    """The share of characters inside runs of `size` words that came before, none counted twice."""

    def measure(text: Text) -> float:
        if not text.has_repeated_run:
            return 0.0
        seen: set[tuple[str, ...]] = set()
        chars = free_from = 0
        for at, run in enumerate(_runs(text.words, size)):
            if at < free_from:
                continue
            if run in seen:
                chars += sum(map(len, run))
                free_from = at + size
            else:
                seen.add(run)
        return _share(chars, len(text.text))

    return measure


def _distinct_words(text: Text) -> float:
    return _share(len(set(text.text.casefold().split())), len(text.words))


def _longest_word(text: Text) -> float:
    longest = max(map(len, text.words), default=0)
    if longest <= C4_LONGEST_WORD:
        return longest
    return max((len(word) for word in text.words if "://" not in word), default=0)


def _one_char(text: Text) -> float:
    """The share of the most frequent character, white space aside."""
    bare = "".join(text.words)
    if not bare:
        return 0.0
    codes = np.frombuffer(bare.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    counts = np.bincount(codes) if bare.isascii() else np.unique(codes, return_counts=True)[1]
    return int(counts.max()) / len(bare)


def _punctuated_lines(text: Text) -> float:
    return _share(sum(1 for line in text.lines if line.rstrip().endswith(TERMINAL_MARKS)), len(text.lines))


def _short_lines(text: Text) -> float:
    return _share(sum(1 for line in text.lines if len(line) < SHORT_LINE_CHARS), len(text.lines))


def keeps_line(line: str) -> bool:
    """Whether C4 keeps a line: it ends like a sentence, has enough words, and is no notice about scripts or cookies."""
    line = line.strip()
    words = line.split()
    if len(words) < C4_LEAST_WORDS or not line.endswith(C4_TERMINAL_MARKS) or line.endswith("..."):
        return False
    lower = line.lower()
    if "javascript" in lower or any(phrase in lower for phrase in POLICY_PHRASES):
        return False
    return max(map(len, words)) <= C4_LONGEST_WORD


def _kept_sentences(text: Text) -> float:
    kept = [line for line in text.lines if keeps_line(line)]
    return sum(len(_SENTENCE_END.findall(line)) for line in kept)


def _contains(phrase: str) -> Callable[[Text], float]:
    return lambda text: text.text.lower().count(phrase)


_GOPHER = "Gopher, appendix A1.1"
_TABLE = "Gopher, table A1"
_C4 = "C4, section 2.2"
_FINEWEB = "FineWeb, section 3.6"
_ANY = float("inf")

RULES: dict[RuleSet, tuple[Rule, ...]] = {
    "chat": (
        Rule("one_char", _one_char, 0, 0.60, "own: a key held down", from_chars=8),
        Rule("longest_word", _longest_word, 0, C4_LONGEST_WORD, "C4's code: such words are code or data"),
        Rule("symbols", _symbols, 0, 0.50, "own: five times Gopher's limit, since chat uses … freely", 10),
        Rule("distinct_words", _distinct_words, 0.15, 1, "own: the same few words over and over", 20),
    ),
    "gopher": (
        Rule("words", lambda text: len(text.words), 50, 100_000, _GOPHER),
        Rule("mean_word", _mean_word, 3, 10, _GOPHER),
        Rule("hashes", _hashes, 0, 0.10, _GOPHER),
        Rule("ellipses", _ellipses, 0, 0.10, _GOPHER),
        Rule("bullets", _bullets, 0, 0.90, _GOPHER),
        Rule("ellipsis_lines", _ellipsis_lines, 0, 0.30, _GOPHER),
        Rule("alphabetic", _alphabetic, 0.80, 1, _GOPHER, floor=_wholly_alphabetic),
        Rule("stop_words", _stop_words, 2, _ANY, _GOPHER),
        Rule("repeated_lines", lambda text: _repeated(text.lines), 0, 0.30, _TABLE, 50),
        Rule("repeated_paragraphs", lambda text: _repeated(text.paragraphs), 0, 0.30, _TABLE, 50),
        Rule("repeated_line_chars", lambda text: _repeated_chars(text.lines, len(text.text)), 0, 0.20, _TABLE, 50),
        Rule(
            "repeated_paragraph_chars",
            lambda text: _repeated_chars(text.paragraphs, len(text.text)), 0, 0.20, _TABLE, 50,
        ),
        *(
            Rule(f"top_{n}_gram", _top_run(n), 0, most, _TABLE, 50, bound=_top_bound(n))
            for n, most in ((2, 0.20), (3, 0.18), (4, 0.16))
        ),
        *(
            Rule(f"repeated_{n}_grams", _repeated_runs(n), 0, most, _TABLE, 50)
            for n, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
        ),
    ),
    "c4": (
        Rule("sentences", _kept_sentences, 3, _ANY, f"{_C4}, of the lines that C4 keeps"),
        Rule("lorem_ipsum", _contains("lorem ipsum"), 0, 0, _C4),
        Rule("curly_bracket", _contains("{"), 0, 0, _C4),
    ),
    "fineweb": (
        Rule("punctuated_lines", _punctuated_lines, 0.12, _ANY, _FINEWEB, open=True),
        Rule(
            "duplicate_line_chars",
            lambda text: _repeated_chars(text.lines, len(text.text)), -1, 0.10, _FINEWEB, open=True,
        ),
        Rule("short_lines", _short_lines, -1, 0.67, _FINEWEB, open=True),
    ),
}  # fmt: skip
"""Limits as published; a value beyond them breaks the rule."""

NAMES = ("no_letters", "placeholder", *dict.fromkeys(rule.name for rule in chain.from_iterable(RULES.values())))
