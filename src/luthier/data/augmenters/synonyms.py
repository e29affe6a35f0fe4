"""Words in place of others that mean the same, from WordNet: no model, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.core.wordnet import PARTS, Synset, base_forms, irregular_forms, synsets
from luthier.data.augment.words import are_english, sample_indices
from luthier.data.augmenter import (
    AugmentContext,
    AugmentedDraft,
    Augmenter,
    AugmentRequest,
    TextChange,
    replace_last_user_text,
)
from luthier.lang.demographics.words import (
    match_case,
    replace_word_with_article,
    split_into_words,
    unprotected_word_indices,
)

_SHORTEST = 3
_GRAMMAR = """
able about above after again all also always am and another any are around away back be because been before being
below best better between both but can cannot come could did do does doing done down each else enough even ever
every few first for from gave get gets getting give given go goes going gone good got had has have having here how
just keep kept know last least less let like little long look made make makes making many may maybe might more most
much must need never new next not now off often old once one only other our out over own part please put quite
right said same saw say see seem seen should since some soon still such sure take taken than thank thanks that the
their them then there these they thing things think this those though three through time times too took two under
until upon use used using very want was way well went were what when where which while who why will with without
would yes yet you your
"""
_COMMON = frozenset(_GRAMMAR.split())
"""Words that carry grammar more than meaning, or have too many senses: they stay."""


class Synonyms(Augmenter):
    """Put words in the place of others that share their commonest sense (WordNet 3.0), in the same form.

    Only English texts are touched, and in them nouns, verbs, adjectives and adverbs whose one sense prevails: at least
    `certainty` of its uses in WordNet's tagged texts are of that part of speech and that sense. Only words that those
    texts use in that sense come in. Plurals, -ing and -ed forms are made anew; words with irregular forms stay.
    """

    kind: Literal["synonyms"] = "synonyms"

    words: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of those words that can be replaced which are; one at least."""
    certainty: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How much of a word's uses must be of the sense in which it is replaced: 0 takes the commonest sense, however
    common, and changes more; towards 1 fewer words are touched and more of what they mean is kept."""

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """Each row with its own words replaced."""
        spoken = are_english([request.row for request in requests])
        return [
            replace_last_user_text(request.row, partial(self.replace_words, chance=request.chance)) if able else None
            for request, able in zip(requests, spoken, strict=True)
        ]

    def replace_words(self, text: str, chance: Random) -> TextChange | None:
        """Replace words of one English text with synonyms."""
        parts = split_into_words(text)
        able = [
            index
            for index in unprotected_word_indices(text, parts)
            if safe_synonyms_of(parts[index].lower(), self.certainty)
        ]
        did: list[str] = []
        for index in sample_indices(able, self.words, chance, least=1):
            old = parts[index]
            new = match_case(chance.choice(safe_synonyms_of(old.lower(), self.certainty)), old)
            parts = replace_word_with_article(parts, index, new)
            did.append(f"replaced {old!r} by {new!r}")
        return TextChange("".join(parts), tuple(did)) if did else None

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Rows of each row, and how many of its words are exchanged."""
        return {
            **super().search_space(),
            "words": ParamDistribution(0.05, 0.5, log=True),
            "certainty": ParamDistribution(0.3, 0.9),
        }


@lru_cache(maxsize=65536)
def safe_synonyms_of(word: str, certainty: float) -> tuple[str, ...]:
    """Other words for a form, in the same form; empty where none is safe."""
    if len(word) < _SHORTEST or word in _COMMON or not word.isalpha():
        return ()
    uses = [(_count(synset, base), base, synset) for base, synset in _readings(word)]
    total = sum(count for count, _, _ in uses)
    if not uses or any(base in _COMMON for _, base, _ in uses):
        return ()
    count, base, sense = max(uses, key=lambda use: use[0])
    if not count or count < certainty * total:
        return ()
    others = [lemma.word for lemma in sense.lemmas if lemma.word.islower() and lemma.word != base and lemma.uses]
    made = [form for other in others if other.isalpha() and (form := _inflected(other, sense.part, base, word))]
    return tuple(sorted({form for form in made if form != word}))


def _readings(word: str) -> list[tuple[str, Synset]]:
    """Every sense of a form, with the base form that has it."""
    return [
        (base, synset)
        for part in PARTS
        for base in base_forms(word, part)
        for synset in synsets(base, part)
        if any(lemma.word.lower() == base for lemma in synset.lemmas)
    ]


def _count(synset: Synset, base: str) -> int:
    return max((lemma.uses for lemma in synset.lemmas if lemma.word.lower() == base), default=0)


def _inflected(other: str, part: str, base: str, word: str) -> str | None:
    """Another word in the form that a base form has here; None when that form cannot be made safely."""
    if word == base:
        return other
    if part == "n":
        return None if irregular_forms(other, part) or not word.endswith("s") else _with_s(other)
    if part == "v" and word in (_with_s(base), _with_ending(base, "ing"), _with_ending(base, "ed")):
        ending = next(end for end in ("s", "ing", "ed") if word.endswith(end))
        if ending == "s":
            return _with_s(other)
        own = [form for form in irregular_forms(other, part) if form.endswith(ending)]
        if ending == "ed" and irregular_forms(other, part) and not own:
            return None
        return own[0] if own else _with_ending(other, ending)
    return None


def _with_s(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else f"{word}s"


def _with_ending(word: str, ending: str) -> str:
    if ending == "ed" and word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ied"
    silent = word.endswith("e") and (ending == "ed" or not word.endswith(("ee", "oe", "ye")))
    return f"{word[:-1]}{ending}" if silent else f"{word}{ending}"
