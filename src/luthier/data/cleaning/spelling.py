"""Misspelled class names and variant forms of a name.

A rare value that nearly equals a frequent one counts as a misspelling. Variant forms are umlauts spelled out, compounds
with and without a hyphen, and singular and plural.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

_RARER = 20
"""So many times rarer than the value that was meant."""
_SHORTEST = 5
"""Shorter values differ in a letter or two and mean something else: `low`, `now`."""


def find_misspellings(counts: Mapping[str, int]) -> dict[str, str]:
    """Each value that is a slip of the pen away from one at least twenty times as frequent, with that one.

    A slip is one letter too many, too few or another behind the first, or two neighbours exchanged; case does not
    count. Values with digits are names of things (`model-3`), and are left alone. So is every value where values that
    are frequent stand a slip apart from one another more often than rare ones do: those are codes (`BIL`, `BILQ`,
    `BILQW`), of which each means its own.
    """
    found: dict[str, str] = {}
    for rare in sorted(counts):
        if len(rare) < _SHORTEST or any(map(str.isdigit, rare)):
            continue
        usual = [other for other in counts if counts[other] >= _RARER * counts[rare] and is_typo(rare, other)]
        if usual:
            found[rare] = min(usual, key=lambda other: (-counts[other], other))
    return found if _apart(counts, set(found)) <= len(found) else {}


def _apart(counts: Mapping[str, int], found: set[str]) -> int:
    """How many pairs of values that nobody takes for slips are a slip apart from each other."""
    others = [value for value in counts if value not in found and len(value) > 1 and not any(map(str.isdigit, value))]
    return sum(is_typo(entry, other) for entry, other in combinations(others, 2))


def is_typo(one: str, other: str) -> bool:
    """Whether one letter was added, left out or exchanged, or two neighbours changed places, whatever their case.

    The first letter is rarely mistyped, and makes another word: `typical` and `atypical`, `moral` and `amoral`.
    """
    from rapidfuzz.distance import OSA

    one, other = one.casefold(), other.casefold()
    if OSA.distance(one, other, score_cutoff=1) != 1:
        return False
    return one[0] == other[0] or one[:2] == other[1::-1]


_UMLAUTS = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"}
_PLAIN_VOWELS = {"ae": "a", "oe": "o", "ue": "u"}
_JOINTS = re.compile(r"(?<=[^\W\d_])[\s_\-/.]+(?=[^\W\d_])")
"""Between words; a sign beside a digit or an end (`-1`, `A-`, `1/2`) means something."""
_WORD_FORMS_SHORTEST = 3
_SHORTEST_DOUBTFUL = 4
"""Shorter words have another word behind many an ending: `car`, `care`."""
OTHER_WITH_S = frozenset({"news", "goods", "customs", "arms", "means", "works"})
"""Words that a plural s makes others of."""
_GERMAN_NOUNS = ("ung", "heit", "keit", "schaft", "tion", "sion", "taet", "enz", "anz")
"""Endings of German nouns whose plural is -en, and of no other words."""
_GERMAN_PLURALS = ("", "e", "n", "en", "er", "s", "se")
_DROPPED_BEFORE_EN = ("o", "a", "um", "us", "ma")
"""Endings that give way to -en: `Konto`, `Firma`, `Datum`."""


def expand_umlauts(name: str) -> str:
    """A name with its umlauts spelled out: `rückerstattung` and `rueckerstattung` are the same."""
    return "".join(_UMLAUTS.get(char, char) for char in name.casefold())


def join_compound_name(name: str) -> str:
    """The same as one word: `kunden-konto`, `kunden konto` and `kundenkonto` are the same."""
    return _JOINTS.sub("", expand_umlauts(name))


def is_plural(one: str, other: str) -> bool:
    """Whether the second name is the plural of the first by a rule that has hardly an exception.

    English -s, -es and -ies, German -en behind an ending that only nouns have and -innen. Names of several words differ
    in one of them: `lost card` and `lost cards`, never `card` and `cards lost`.
    """
    return _differ_in_one_word(one, other, _is_sure)


def may_be_plural(one: str, other: str) -> bool:
    """Whether the second name may be a German plural of the first, where the texts of both are alike.

    `Konto`, `Konten` are one; `Kauf`, `Käufer` follow the same rules and are two.
    """
    return _differ_in_one_word(one, other, _is_likely)


def _differ_in_one_word(one: str, other: str, is_form: Callable[[str, str], bool]) -> bool:
    words, others = _words(one), _words(other)
    if len(words) != len(others):
        return False
    unlike = [(a, b) for a, b in zip(words, others, strict=True) if a != b]
    return len(unlike) == 1 and is_form(*unlike[0])


def _words(name: str) -> Sequence[str]:
    return _JOINTS.sub(" ", expand_umlauts(name)).split()


def _is_sure(one: str, other: str) -> bool:
    if len(one) < _WORD_FORMS_SHORTEST or not one[-1].isalpha() or other in OTHER_WITH_S:
        return False
    if other == f"{one}s":
        return one[-1] != "s"
    if other == f"{one}es":
        return one.endswith(("s", "x", "z", "ch", "sh"))
    if other == f"{one[:-1]}ies":
        return one[-1] == "y" and one[-2] not in "aeiou"
    if one.endswith("in") and other == f"{one}nen":
        return True
    return other == f"{one}en" and one.endswith(_GERMAN_NOUNS)


def _is_likely(one: str, other: str) -> bool:
    if len(one) < _SHORTEST_DOUBTFUL or not one[-1].isalpha() or other in OTHER_WITH_S:
        return False
    stem, plural = _without_umlauts(one), _without_umlauts(other)
    if any(plural == f"{stem}{ending}" and one != other for ending in _GERMAN_PLURALS):
        return True
    return any(stem.endswith(end) and plural == f"{stem.removesuffix(end)}en" for end in _DROPPED_BEFORE_EN)


def _without_umlauts(word: str) -> str:
    return re.sub("ae|oe|ue", lambda found: _PLAIN_VOWELS[found[0]], word)
