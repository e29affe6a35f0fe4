"""Word lists, one a label; the label whose words come most often wins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from pydantic import Field

from luthier.data.engine.cache import prompt_or_answer_of
from luthier.data.label_function import LabelFunction
from luthier.data.label_functions.keywords import build_word_pattern
from luthier.data.row import Row


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
