"""Swear words in a text, by lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from luthier.core.errors import RecipeError
from luthier.eval.regard import Regard


class Swearing(Regard):
    """-1 for a text with a word on a list of swear words (the package `badwords-py`, extra `toxicity`), else 0.

    No classifier of toxicity comes with Luthier, since none stands on a package index; a list finds an insult and the
    report of one alike, and misses what is said politely.
    """

    kind: Literal["swearing"] = "swearing"
    languages: tuple[str, ...] = ("en",)
    """Languages whose lists are used."""

    def score(self, texts: Sequence[str], base: Path) -> list[float]:
        """Whether each text has such a word."""
        try:
            from badwords import ProfanityFilter
        except ImportError as error:
            raise RecipeError("word lists need badwords-py", remedy="pip install 'luthier[toxicity]'") from error
        listed = ProfanityFilter()
        listed.init(languages=list(self.languages))
        plain = [text.encode("utf-8", "replace").decode() for text in texts]
        return [-1.0 if matches else 0.0 for matches in listed.find_many(plain)]
