"""Regard scorers that read lists of words: swear words, and words with a valence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from math import sqrt
from pathlib import Path
from typing import ClassVar, Literal

from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import file_digest
from luthier.eval.probe import read_probe_table
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
        """Return whether each text has a swear word."""
        from luthier.lang.lexicons import count_swear_words

        return [-1.0 if count else 0.0 for count in count_swear_words(texts, self.languages)]


_WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")
_NOT = frozenset({"not", "no", "never", "neither", "nor", "without", "hardly", "isn't", "wasn't", "don't", "doesn't"})
_ALPHA = 15
_TURNED = -0.74
"""Both as in VADER (Hutto and Gilbert 2014): sums are divided by the root of their square plus 15, and a negation in
the three words before turns a word to 74 % of its opposite."""


class ValenceRegardScorer(RegardScorer):
    """Sum the valences of the words on a list and bring the sum between -1 and 1, as VADER does.

    The list that comes with it has some 200 words that say something of a person; VADER's own file (7,500 words, MIT)
    is read as it is. A list knows no irony and no context: `respectable` is good and `he killed the lights` is bad.
    """

    kind: Literal["valence"] = "valence"
    words: PathText | None = None
    """A file with a word and its valence on each line, a tab between, such as `vader_lexicon.txt`."""

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the file."""
        path = None if self.words is None else resolve_path(self.words, recipe_dir)
        return file_digest(path) if path is not None and path.is_file() else None

    def score(self, texts: Sequence[str], recipe_dir: Path) -> list[float]:
        """Each text's sum, between -1 and 1; 0 for none of the words."""
        known = _own() if self.words is None else _read(resolve_path(self.words, recipe_dir))
        return [_score(text, known) for text in texts]


def _score(text: str, known: Mapping[str, float]) -> float:
    words = [word.lower() for word in _WORD.findall(text.replace("’", "'"))]
    total = 0.0
    for index, word in enumerate(words):
        turned = not _NOT.isdisjoint(words[max(0, index - 3) : index])
        total += known.get(word, 0.0) * (_TURNED if turned else 1.0)
    return total / sqrt(total * total + _ALPHA)


@cache
def _own() -> Mapping[str, float]:
    cells = [cell.split() for line in read_probe_table("tables/valence") for cell in line.split("|")]
    return {word: float(valence) for word, valence in cells}


def _read(path: Path) -> Mapping[str, float]:
    if not path.is_file():
        raise RecipeError("there is no such file", where=SourceLocation(file=str(path), field="words"))
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            word, valence = line.split("\t")[:2]
            found[word.lower()] = float(valence)
        except ValueError:
            where = SourceLocation(file=str(path), line=number, field="words")
            raise RecipeError("expected a word, a tab and a number", where=where) from None
    return found
