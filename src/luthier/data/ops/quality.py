"""Rules that tell usable text from rubbish, each with its source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import field_validator

from luthier.core.errors import did_you_mean
from luthier.data.operator import Column, Drop, Outcome, Reads, RowOperator, Suggestion
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.data.profile import Profile

_WORD = re.compile(r"\S+")
_PLACEHOLDERS = frozenset({"tbd", "todo", "asdf", "asdfasdf", "qwerty", "xxx", "lorem ipsum", "...", "…"})
_SYMBOLS = re.compile(r"#|\.\.\.|…")
_BULLET = re.compile(r"\s*[-*•·‣◦]")


class Seen(NamedTuple):
    """What rules look at, taken apart once."""

    text: str
    words: list[str]
    lines: list[str]


class Rule(NamedTuple):
    """Text is broken when the measure lies outside the limits."""

    name: str
    measure: Callable[[Seen], float]
    least: float
    most: float
    source: str
    from_words: int = 0
    """Shorter texts are not judged by this rule."""
    from_chars: int = 0
    """Nor are texts with fewer characters."""


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mean_word(seen: Seen) -> float:
    return _share(sum(map(len, seen.words)), len(seen.words))


def _symbols(seen: Seen) -> float:
    return _share(len(_SYMBOLS.findall(seen.text)), len(seen.words))


def _alphabetic(seen: Seen) -> float:
    return _share(sum(1 for word in seen.words if any(char.isalpha() for char in word)), len(seen.words))


def _bullets(seen: Seen) -> float:
    return _share(sum(1 for line in seen.lines if _BULLET.match(line)), len(seen.lines))


def _ellipses(seen: Seen) -> float:
    return _share(sum(1 for line in seen.lines if line.rstrip().endswith(("...", "…"))), len(seen.lines))


def _repeated_lines(seen: Seen) -> float:
    return _share(len(seen.lines) - len(set(seen.lines)), len(seen.lines))


def _repeated_line_chars(seen: Seen) -> float:
    counts = Counter(seen.lines)
    return _share(sum(len(line) * (count - 1) for line, count in counts.items()), len(seen.text))


def _top_ngram(size: int) -> Callable[[Seen], float]:
    """The share of characters inside the most frequent run of `size` words."""

    def measure(seen: Seen) -> float:
        runs = Counter(zip(*(seen.words[at:] for at in range(size)), strict=False))
        most = max(runs.values(), default=0)
        if most < 2:
            return 0.0
        longest = max(sum(map(len, run)) for run, count in runs.items() if count == most)
        return _share(longest * most, len(seen.text))

    return measure


def _distinct_words(seen: Seen) -> float:
    return _share(len({word.casefold() for word in seen.words}), len(seen.words))


def _longest_word(seen: Seen) -> float:
    return max((len(word) for word in seen.words if "://" not in word), default=0)


def _one_char(seen: Seen) -> float:
    """The share of the most frequent character, white space aside."""
    bare = seen.text.replace(" ", "").replace("\n", "")
    return _share(max(Counter(bare).values(), default=0), len(bare))


_GOPHER = "Rae et al. 2021 (Gopher), table A1"
_NO_LIMIT = float("inf")
_REPETITION = (
    Rule("repeated_lines", _repeated_lines, 0, 0.30, _GOPHER, 50),
    Rule("repeated_line_chars", _repeated_line_chars, 0, 0.20, _GOPHER, 50),
    Rule("top_2_gram", _top_ngram(2), 0, 0.20, _GOPHER, 50),
    Rule("top_3_gram", _top_ngram(3), 0, 0.18, _GOPHER, 50),
    Rule("top_4_gram", _top_ngram(4), 0, 0.16, _GOPHER, 50),
)
RULES: dict[str, tuple[Rule, ...]] = {
    "chat": (
        Rule("one_char", _one_char, 0, 0.60, "own: a key held down", from_chars=8),
        Rule("longest_word", _longest_word, 0, 1000, "Raffel et al. 2020 (C4): lines with such words are code or data"),
        Rule("symbols", _symbols, 0, 0.50, "own: chat uses '…' freely, so five times Gopher's limit", 10),
        Rule("distinct_words", _distinct_words, 0.15, 1, "own: the same few words over and over", 20),
    ),
    "documents": (
        Rule("words", lambda seen: len(seen.words), 50, 100_000, _GOPHER),
        Rule("mean_word", _mean_word, 3, 10, _GOPHER),
        Rule("symbols", _symbols, 0, 0.10, _GOPHER),
        Rule("alphabetic", _alphabetic, 0.80, _NO_LIMIT, _GOPHER),
        Rule("bullets", _bullets, 0, 0.90, _GOPHER),
        Rule("ellipses", _ellipses, 0, 0.30, _GOPHER),
        *_REPETITION,
    ),
}
"""Published limits as published; for chat, only rules that short texts can be judged by."""
NAMES = ("no_letters", "placeholder", *dict.fromkeys(rule.name for rules in RULES.values() for rule in rules))


class Quality(RowOperator):
    """Judge prompt and answer by published rules, and drop or flag what breaks one.

    `no_letters` and `placeholder` catch rows that say nothing (`???`, `TODO`). `documents` are held to
    Gopher's published limits, which short texts would break by chance.
    """

    kind: Literal["quality"] = "quality"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 40
    writes: ClassVar[dict[str, Column]] = {"broken": "text", "words": "count"}

    rules: Literal["chat", "documents"] = "chat"
    """`chat` for questions, tickets and answers of any length; `documents` for prose of at least 50 words."""
    action: Literal["drop", "flag"] = "drop"
    """Leave such rows out, or only write the names of the broken rules."""
    skip: tuple[str, ...] = ()
    """Names of rules that are not applied."""

    @field_validator("skip")
    @classmethod
    def _known_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in NAMES:
                raise ValueError(f"rule {name!r} is unknown; {did_you_mean(name, NAMES)}")
        return value

    def apply(self, rows: Sequence[Row]) -> Outcome:
        """Judge each row."""
        broken = [self._broken(row) for row in rows]
        words = [len(row.prompt.split()) + len(row.answer.split()) for row in rows]
        outcome = Outcome(attributes={"broken": [",".join(names) for names in broken], "words": words})
        if self.action == "drop":
            outcome.drops.update({place: Drop(f"quality {names[0]}") for place, names in enumerate(broken) if names})
        return outcome

    def _broken(self, row: Row) -> list[str]:
        """Names of broken rules, prompt first."""
        found: list[str] = []
        if row.prompt:
            found += [name for name in self.judge(row.prompt) if name not in found]
        if row.answer and not row.messages[-1].tool_calls:
            found += [name for name in self._judge_answer(row) if name not in found]
        return found

    def _judge_answer(self, row: Row) -> list[str]:
        """Answers may be bare signs or numbers (a class, a result); prose is judged as such."""
        if len(row.answer.split()) < 5 and row.prompt:
            return ["placeholder"] if "placeholder" not in self.skip and _says_nothing(row.answer) else []
        return self.judge(row.answer)

    def judge(self, text: str) -> list[str]:
        """Names of the rules that a text breaks."""
        found: list[str] = []
        if not any(char.isalnum() for char in text):
            found.append("no_letters")
        elif _says_nothing(text):
            found.append("placeholder")
        seen = Seen(text, _WORD.findall(text), [line for line in text.split("\n") if line.strip()])
        for rule in RULES[self.rules]:
            judged = len(seen.words) >= rule.from_words and len(text) >= rule.from_chars
            if judged and not rule.least <= rule.measure(seen) <= rule.most:
                found.append(rule.name)
        return [name for name in found if name not in self.skip]

    @classmethod
    def suggest(cls, profile: Profile) -> Suggestion | None:
        """Worth it when the sample holds rows that break a rule."""
        tried = profile.trials.get("quality")
        if tried is None:
            return None
        shown = ", ".join(f"{count} {name.removeprefix('quality ')}" for name, count in sorted(tried.dropped.items()))
        return Suggestion({}, f"some of {profile.looked_at} rows say nothing or repeat themselves: {shown}")

    @classmethod
    def trial(cls) -> Quality:
        """With the rules for chat."""
        return cls()


def _says_nothing(text: str) -> bool:
    return text.strip().casefold() in _PLACEHOLDERS
