"""The same text about somebody of another group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from luthier.lang.demographics.groups import OF_PERSONS, PERSONS, Group, counterpart_words, interchangeable_values
from luthier.lang.demographics.pronouns import opposite_gender_pronoun
from luthier.lang.demographics.words import (
    match_case,
    replace_word_with_article,
    split_into_words,
    unprotected_word_indices,
)

_APOSTROPHES = ("'", "’")


class DemographicSwapResult(NamedTuple):
    """A text with words exchanged, and what was done to it, in words."""

    text: str
    did: tuple[str, ...]


@dataclass(frozen=True)
class DemographicSwapper:
    """Exchanges words that name some groups of people for those of others."""

    groups: tuple[Group, ...]

    def mapping(self, chance: Random) -> dict[str, str]:
        """Words with what stands for them in one row: those of a group by its own dice."""
        found: dict[str, str] = {}
        for group in self.groups:
            if group == "gender" or group == "age":  # noqa: PLR1714  # mypy tells them apart only so
                found |= {word: chance.choice(others) for word, others in counterpart_words(group).items()}
            else:
                found |= _draw_swaps(group, chance)
        return found

    def other(self, text: str, mapping: dict[str, str]) -> DemographicSwapResult | None:
        """One text with the words of a mapping exchanged."""
        parts = split_into_words(text)
        did: list[str] = []
        for index in unprotected_word_indices(text, parts):
            old = parts[index]
            new = self._swap_word(parts, index, mapping)
            if new is not None and new != old:
                parts = replace_word_with_article(parts, index, new)
                did.append(f"swapped {old!r} for {new!r}")
        return DemographicSwapResult("".join(parts), tuple(did)) if did else None

    def _swap_word(self, parts: Sequence[str], index: int, mapping: dict[str, str]) -> str | None:
        """What stands in the place of a word; None when it names no group."""
        word, ending = _without_ending(parts[index])
        if "gender" in self.groups and (pronoun := opposite_gender_pronoun(parts, index)) is not None:
            return pronoun
        if word.lower() in OF_PERSONS and not _is_before_a_person(parts, index):
            return None
        other = (
            mapping.get(word) or mapping.get(word.lower()) or (mapping.get(word.title()) if word.isupper() else None)
        )
        return None if other is None else match_case(other, word) + ending


def _draw_swaps(group: Literal["names", "nationality", "religion"], chance: Random) -> dict[str, str]:
    """Each form of each value with the same form of another value of its set."""
    found: dict[str, str] = {}
    for alike in interchangeable_values(group):
        for family in alike:
            others = [other for other in alike if other != family]
            if group == "names":  # the first half of a set is of one origin, the second of another
                half = len(alike) // 2
                others = list(alike[half:] if alike.index(family) < half else alike[:half])
            other = chance.choice(others)
            found |= {form: new for form, new in zip(family, other, strict=True) if form not in found}
    return found


def _without_ending(word: str) -> tuple[str, str]:
    """A word and what an apostrophe adds to it: `she` and `'s`."""
    for apostrophe in _APOSTROPHES:
        bare, found, ending = word.partition(apostrophe)
        if found:
            return bare, found + ending
    return word, ""


def _is_before_a_person(parts: Sequence[str], index: int) -> bool:
    return index + 2 < len(parts) and parts[index + 1] == " " and parts[index + 2].lower() in PERSONS
