"""Words that give a label away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from pydantic import Field

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
