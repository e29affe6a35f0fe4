"""Labeling functions over a row's text: keywords, regular expressions, word lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator

from luthier.data.engine.cache import prompt_or_answer_of
from luthier.data.label_function import LabelFunction
from luthier.data.row import Row


class Keywords(LabelFunction):
    """Vote for a label where the text has one of some words or phrases; case does not count."""

    kind: Literal["keywords"] = "keywords"
    label: str = Field(default="yes", min_length=1)
    """The label that it votes for."""
    words: tuple[str, ...] = ()
    """Words or phrases; each counts as a whole, so that `art` is not found in `start`."""
    unless: tuple[str, ...] = ()
    """Words or phrases that silence it."""

    @property
    def says(self) -> str:
        """The label."""
        return self.label

    def vote(self, rows: Sequence[Row]) -> list[str | None]:
        """Look for the words."""
        texts = (prompt_or_answer_of(row) for row in rows)
        return [
            self.label if matches_words(self._wanted, text) and not matches_words(self._silent, text) else None
            for text in texts
        ]

    @cached_property
    def _wanted(self) -> re.Pattern[str] | None:
        return build_word_pattern(self.words)

    @cached_property
    def _silent(self) -> re.Pattern[str] | None:
        return build_word_pattern(self.unless)


def build_word_pattern(words: Sequence[str]) -> re.Pattern[str] | None:
    """Any of some words as whole words, spaces standing for any white space; nothing repeats, so it runs in linear
    time."""
    parts = [r"\s".join(map(re.escape, word.casefold().split())) for word in words if word.strip()]
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)") if parts else None


def matches_words(pattern: re.Pattern[str] | None, text: str) -> bool:
    """Whether a text has one of the words."""
    return pattern is not None and pattern.search(" ".join(text.casefold().split())) is not None


class RegexLabelFunction(LabelFunction):
    """Vote for a label where the text matches a regular expression, which runs in linear time on every text.

    The syntax is that of Rust's `regex`: as usual, without look-around and back-references. `(?i)` ignores case.
    """

    kind: Literal["regex"] = "regex"
    label: str = Field(default="yes", min_length=1)
    """The label that it votes for."""
    pattern: str = Field(default=r"\?\s*$", min_length=1)
    """The regular expression, found anywhere in the text."""

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        import polars as pl

        try:
            pl.Series([""]).str.contains(pattern)
        except pl.exceptions.ComputeError as error:
            message = str(error).replace("\n", " ")[:200]
            raise ValueError(f"{pattern!r} is not a pattern that runs in linear time: {message}") from error
        return pattern

    @property
    def says(self) -> str:
        """The label."""
        return self.label

    def vote(self, rows: Sequence[Row]) -> list[str | None]:
        """Match every text."""
        import polars as pl

        texts = pl.Series([prompt_or_answer_of(row) for row in rows], dtype=pl.String)
        return [self.label if hit else None for hit in texts.str.contains(self.pattern).to_list()]


class Lexicon(LabelFunction):
    """Vote for the label whose words come most often in the text; silent where two labels are close."""

    kind: Literal["lexicon"] = "lexicon"
    words: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Words or phrases by label."""
    lead: int = Field(default=1, ge=1)
    """How many more hits than the next label the first one needs."""

    @property
    def says(self) -> str:
        """The labels."""
        return "/".join(self.words)

    def vote(self, rows: Sequence[Row]) -> list[str | None]:
        """Count hits."""
        return [self._one(" ".join(prompt_or_answer_of(row).casefold().split())) for row in rows]

    def _one(self, text: str) -> str | None:
        hits = sorted(((len(pattern.findall(text)), label) for label, pattern in self._patterns.items()), reverse=True)
        behind = hits[1][0] if len(hits) > 1 else 0
        return hits[0][1] if hits and hits[0][0] >= behind + self.lead else None

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        found = {label: build_word_pattern(words) for label, words in self.words.items()}
        return {label: pattern for label, pattern in found.items() if pattern is not None}
