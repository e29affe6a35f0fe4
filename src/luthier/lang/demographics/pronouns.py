"""English pronouns of the other gender, in the case that their place wants.

`her` is two words in one: `him` (they saw her) and `his` (her parcel); `his` is `her` before a noun and `hers` without
one. Which it is is told by what follows: before a noun or an adjective it is a determiner. Words that cannot begin what
somebody has (prepositions, articles, auxiliaries, …) are a closed list; after `let`, `make`, `help` and the verbs of
seeing, a verb follows an object. Giving (`give her flowers`) stays ambiguous and is read as `his flowers`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from luthier.core.wordnet import synsets
from luthier.lang.demographics.words import is_word, match_case

_SIMPLE = {"he": "she", "she": "he", "him": "her", "himself": "herself", "herself": "himself", "hers": "his"}
_NOT_AFTER_A_DETERMINER = """
a about above across after again against all along also although always am among an and another any anymore anything are
around as at away back be because been before behind below beside between both but by can cannot could did do does down
during each either enough every everything for from had has have he her here hers herself him himself his home how i if
immediately in inside instead into is it its just later like may me might mine more much must my near never no nor not
nothing now of off often on once one only onto or our out outside over past personally please quite she should since so
some something somewhere soon still such than that the their them then there these they this those though through till
to today together tomorrow tonight too toward towards twice under unless until up upon us very was we well were what
when whenever where whether which while who why will with within without would yesterday yet you your
"""
_STOPS = frozenset(_NOT_AFTER_A_DETERMINER.split())
_ALSO_NOUNS = frozenset(["back", "home", "inside", "outside", "past"])
"""Words of that list that somebody can have; at the head of a sentence they are had."""
_TAKE_A_VERB = """
let lets letting make makes made making help helps helped helping see sees saw seen seeing hear hears heard hearing
watch watches watched watching feel felt have had having notice noticed
"""
_BEFORE_OBJECT_AND_VERB = frozenset(_TAKE_A_VERB.split())


def opposite_gender_pronoun(parts: Sequence[str], index: int) -> str | None:
    """The pronoun of the other gender for the one that stands here; None for any other word."""
    whole = parts[index]
    word, apostrophe, ending = whole.replace("’", "'").partition("'")
    rest = whole[len(word) :] if apostrophe else ""
    low = word.lower()
    if low in _SIMPLE:
        if _is_of_both(parts, index):
            return whole
        other = _SIMPLE[low]
    elif low == "her":
        other = "his" if _is_determiner(parts, index) else "him"
    elif low == "his":
        other = "her" if _is_determiner(parts, index) else "hers"
    else:
        return None
    return match_case(other, word if len(word) > 1 else word.title()) + (rest if ending else "")


def _is_determiner(parts: Sequence[str], index: int) -> bool:
    """Whether something that is had follows: the next word can begin a noun phrase, or the other pronoun does so."""
    if (other := _find_paired_pronoun(parts, index)) is not None:
        index = other
    following = _next_word(parts, index)
    if following is None:
        return False
    word = parts[following].lower()
    if word.isdigit():
        return True
    if word in _STOPS:
        return word in _ALSO_NOUNS and parts[index][0].isupper()
    if word.endswith("ly") and not _count_uses(word, "a"):
        return (after := _next_word(parts, following)) is not None and parts[after].lower() not in _STOPS
    return _word_before(parts, index) not in _BEFORE_OBJECT_AND_VERB or not _is_done_or_so(parts, following)


def _find_paired_pronoun(parts: Sequence[str], index: int) -> int | None:
    """Where the other pronoun stands: `his or her parcel`, `his/her parcel`."""
    for between in (["/"], [" ", "or", " "], [" ", "and", " "]):
        at = index + 1 + len(between)
        if list(parts[index + 1 : at]) == between and at < len(parts) and parts[at].lower() in ("his", "her"):
            return at
    return None


def _is_of_both(parts: Sequence[str], index: int) -> bool:
    """Whether a word is the end of one for both genders: `s/he`, `(s)he`."""
    before = "".join(parts[max(0, index - 3) : index]).lower()
    return before.endswith("(s)") or re.search(r"(?:^|\W)s/$", before) is not None


def _is_done_or_so(parts: Sequence[str], index: int) -> bool:
    """Whether a word says what somebody does or how somebody is: a verb, or an adjective with nothing after it."""
    word = parts[index].lower()
    nouns, adjectives = _count_uses(word, "n"), _count_uses(word, "a")
    if _count_uses(word, "v") > nouns + adjectives:
        return not word.endswith(("ed", "ing"))
    return adjectives > nouns and _next_word(parts, index) is None


def _next_word(parts: Sequence[str], index: int) -> int | None:
    """The place of the word or number that follows after one space."""
    at = index + 2
    if at < len(parts) and parts[index + 1] == " " and (is_word(parts[at]) or parts[at][0].isdigit()):
        return at
    return None


def _word_before(parts: Sequence[str], index: int) -> str:
    return parts[index - 2].lower() if index >= 2 and parts[index - 1] == " " else ""


@lru_cache(maxsize=8192)
def _count_uses(word: str, part: str) -> int:
    """How often a form stands as this part of speech in WordNet's tagged texts."""
    return sum(max(lemma.uses for lemma in synset.lemmas) for synset in synsets(word, part)[:3])
