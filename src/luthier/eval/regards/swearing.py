"""Swear words in a text, by lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from luthier.eval.regard import RegardScorer


class SwearWordRegardScorer(RegardScorer):
    """-1 for a text with a word on a list of swear words (the package `badwords-py`, extra `toxicity`), else 0.

    No classifier of toxicity comes with Luthier, since none stands on a package index; a list finds an insult and the
    report of one alike, and misses what is said politely.
    """

    kind: Literal["swearing"] = "swearing"
    libraries: ClassVar[Mapping[str, str]] = {"badwords": "toxicity"}
    languages: tuple[str, ...] = ("en",)
    """Languages whose lists are used."""

    def score(self, texts: Sequence[str], recipe_dir: Path) -> list[float]:
        """Whether each text has such a word."""
        from luthier.lang.lexicons import count_swear_words

        return [-1.0 if count else 0.0 for count in count_swear_words(texts, self.languages)]
