"""WordNet 3.0's synsets of single words, for metrics and augmentation, without a model.

`scripts/make_synonyms.py` made the table in this folder; `LICENSE` holds its license. Base forms are found as WordNet's
`morphy` finds them: irregular forms first, then endings.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple

PARTS = ("n", "v", "a", "r")
"""Nouns, verbs, adjectives, adverbs."""
ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "n": (("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
          ("men", "man"), ("ies", "y")),
    "v": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}  # fmt: skip
"""What is cut off a form and put in its place, by part of speech (WordNet 3.0, morphy(7WN))."""


class Lemma(NamedTuple):
    """A word in one of its senses."""

    word: str
    number: int
    """1 is the word's commonest sense."""
    uses: int
    """How often the sense stands in WordNet's tagged texts."""


class Synset(NamedTuple):
    """Single words that share a sense."""

    part: str
    lemmas: tuple[Lemma, ...]


class _Table(NamedTuple):
    senses: dict[tuple[str, str], list[tuple[int, Synset]]]
    """Numbered senses by part of speech and word in small letters."""
    bases: dict[tuple[str, str], tuple[str, ...]]
    """Base forms of irregular forms."""
    forms: dict[tuple[str, str], tuple[str, ...]]
    """Irregular forms of base forms."""


def synsets(word: str, part: str | None = None) -> list[Synset]:
    """The synsets of a word in any of its forms, a part of speech after the other, commonest sense first."""
    return [
        synset
        for entry in (PARTS if part is None else (part,))
        for base in base_forms(word, entry)
        for _, synset in _table().senses[entry, base]
    ]


def synonyms(word: str) -> frozenset[str]:
    """All single words that share a sense with a word, itself included when it is known: what METEOR matches by."""
    return frozenset(lemma.word for synset in synsets(word) for lemma in synset.lemmas)


def base_forms(word: str, part: str) -> list[str]:
    """The known words of a part of speech that a form may stand for, as `morphy` finds them."""
    form, table = word.lower(), _table()
    cut = [form[: len(form) - len(old)] + new for old, new in ENDINGS[part] if form.endswith(old)]
    found = dict.fromkeys([form, *table.bases.get((part, form), cut)])
    return [base for base in found if (part, base) in table.senses]


def irregular_forms(base: str, part: str) -> tuple[str, ...]:
    """The irregular forms of a word, doubled letters included (`stopped`, `stopping`); empty when it is regular."""
    return _table().forms.get((part, base), ())


@cache
def _table() -> _Table:
    senses: dict[tuple[str, str], list[tuple[int, Synset]]] = {}
    bases: dict[tuple[str, str], tuple[str, ...]] = {}
    forms: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for part, *fields in _lines():
        if part.endswith("!"):
            form, *own = fields
            bases[part[0], form] = tuple(own)
            for base in own:
                forms[part[0], base].append(form)
            continue
        synset = Synset(part, tuple(_lemma(field) for field in fields))
        for lemma in synset.lemmas:
            senses.setdefault((part, lemma.word.lower()), []).append((lemma.number, synset))
    for numbered in senses.values():
        numbered.sort(key=lambda entry: entry[0])
    return _Table(senses, bases, {key: tuple(found) for key, found in forms.items()})


def _lines() -> Iterator[list[str]]:
    data = (files("luthier.core.wordnet") / "synsets.tsv.gz").read_bytes()
    for line in gzip.decompress(data).decode().splitlines():
        yield line.split("\t")


def _lemma(field: str) -> Lemma:
    word, _, rest = field.rpartition("#")
    number, _, count = rest.partition("*")
    return Lemma(word, int(number), int(count or 0))
