"""Evidence for an address in a line: a name and a number without a street word.

The evidence is a post code, a well-known town, a flat or another address part after them, a word such as *avenida* or
*Hill* inside the name, words of residence, and isolation from other text. Each has a weight, and one alone is not
enough. Text in lower case is also read as if its names were capitalized, since chats often omit capitals.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from luthier.pii.addresses import context
from luthier.pii.addresses.context import CUES, FIRST_WORDS, PATTERNS, PLACES, RULES
from luthier.pii.addresses.extent import extend_to_full_address
from luthier.pii.span import CandidateSpan

_REACH, _WORD_REACH, _MOST_WORDS, _SHORT, _ENOUGH = 64, 24, 7, 5, 3
_SMALL_WORDS, _NOT_FIRST, _OPENS = (RULES.words(name) for name in ("small_words", "not_first", "opens"))
_SAYS_NUMBER, _WHICH, _BOXES = (RULES.words(name) for name in ("says_number", "which", "boxes"))
_FOLLOW, _SIGNS = frozenset(" ,/-–ABCDEabcde"), frozenset("#№.:°º")
_BRACKETS, _PARTS = "(\"“„«<>|;:='[", ",.;:!?)"
_ROADS = frozenset(re.findall(r"[a-z-]{2,}", " ".join(RULES.words("roads"))))
_NAMES_STREETS = frozenset(
    word.strip(".")
    for word in FIRST_WORDS | context.LAST_WORDS | _ROADS
    if len(word) > 2 or word in ("ul", "av", "pl", "os", "al", "st", "rd", "bd", "út", "tn", "dr", "ln")
) - {"r", "c", "u", "g", "no", "st"}
_MAY_NAME_STREETS = frozenset(word for word in RULES.words("grounds") if len(word) > 2) - _NAMES_STREETS
_REGIONS = RULES.words("regions")


class _Place(NamedTuple):
    """A name with a number, and what is told of them."""

    span: CandidateSpan
    name: str
    number: str
    number_end: int
    """Where the tail begins: behind the number, or behind the name that follows it."""
    is_split: bool
    """A comma stands between them."""
    is_signed: bool
    """*No.* stands between them."""


class AddressTail(NamedTuple):
    """What stands behind a name and its number."""

    weight: int
    has_code: bool
    """A post code and a town."""
    has_street: bool
    """A word that little else bears but a street."""
    is_known: bool
    """A town, a country or a region that many know."""


def weigh_address_at(text: str, at: int, end: int, enough: int = _ENOUGH) -> CandidateSpan | None:
    """The address around a number that begins at this place, if enough speaks for one; `end` is past its digits.

    Every number is asked, and names have capitals.
    """
    before = text[at - 1 : at]
    if before == " ":
        first = text.rfind(" ", max(0, at - _WORD_REACH), at - 1) + 1
        is_likely = text[first].isupper() or text[first] in "#№" or text[first:at].rstrip(" .:º°") in _SAYS_NUMBER
    else:
        is_likely = before in _SIGNS
    if is_likely and (location := _behind_name(text, at)) and _is_one(text, location, enough):
        return location.span
    if text[end : end + 1] not in _FOLLOW or not PATTERNS["heads_name"].match(text, end):
        return None
    location = _before_name(text, at)
    return location.span if location and _is_one(text, location, enough) else None


def _behind_name(text: str, at: int) -> _Place | None:
    """*Perseverancia 209*, *Resslova 343/10*."""
    number = PATTERNS["number_behind_name"].match(text, at)
    if number is None:
        return None
    line = text[max(0, at - _REACH) : at].rpartition("\n")[2]
    bare = line.rstrip(" ,#№")
    words = bare.split(" ")
    is_signed = "#" in line[len(bare) :] or "№" in line[len(bare) :]
    if len(words) > 1 and words[-1].lower().rstrip(".:º°") in _SAYS_NUMBER:
        bare, is_signed = bare[: -len(words[-1]) - 1].rstrip(" ,"), True
    words = _name_of(bare.split(" "))
    if not words or not words[-1][1:2].isalpha():
        return None
    name, end = " ".join(words), number.end() - number[0].endswith(".")
    span = CandidateSpan(at - len(line) + len(bare) - len(name), end)
    return _Place(span, name, number[0], end, "," in line[len(bare) :] and not is_signed, is_signed)


def _is_short(word: str) -> bool:
    """Whether a word ends in the mark of a shortened one: *Av.*, *Jr.*, *nábř.*"""
    return word.endswith(".") and (len(word) <= _SHORT or word.lower() in FIRST_WORDS)


def _name_of(words: list[str]) -> list[str]:
    """The last of some words that a name is made of: with capitals, small ones and numbers only between them."""
    first = at = len(words)
    while at > 0 and len(words) - at < _MOST_WORDS:
        word = words[at - 1].lstrip(_BRACKETS)
        is_open = word != words[at - 1]
        if at < len(words) and words[at - 1][-1:] in _PARTS and not _is_short(words[at - 1]):
            break
        if word[:1].isupper() or (word[:1].isdigit() and at == 1):
            first = at - 1
        elif word not in _SMALL_WORDS and not (word.rstrip(".").isdigit() and len(word) < 4):
            break
        at -= 1
        if is_open:
            break
    found = words[first:]
    if found:
        found[0] = found[0].lstrip(_BRACKETS)
    while found and (found[0].lower().strip(".:") in _OPENS or found[0] in _NOT_FIRST):
        found = found[1:]
    return found if found and found[-1][-1:] not in ":;!?)" else []


def _before_name(text: str, at: int) -> _Place | None:
    """*13, Ahmet Haxhiu*."""
    match = PATTERNS["name_behind"].match(text, at)
    if match is None or (at > 0 and not text[at - 1].isspace() and text[at - 1] not in ';:="(>|'):
        return None
    end = match.end() - match["name"].endswith(".")
    return _Place(CandidateSpan(at, end), match["name"], match["number"], end, bool(match["comma"]), is_signed=False)


def _is_one(text: str, candidate: _Place, enough: int) -> bool:
    """Whether the evidence is enough."""
    words = [word.lower() for word in PATTERNS["letters"].findall(candidate.name)]
    is_box = words[-1] in _BOXES
    if not is_box and (words[-1] in _WHICH or words[0] in _WHICH or (len(words) == 1 and len(words[0]) < 3)):
        return False
    is_named = (
        1 if is_box else 2 if not _NAMES_STREETS.isdisjoint(words) else int(not _MAY_NAME_STREETS.isdisjoint(words))
    )
    before = text[max(0, candidate.span.start - 2) : candidate.span.start]
    is_after_label = ":" in before or "=" in before
    if not is_named and not is_after_label and not PATTERNS["tail_begin"].match(text, candidate.number_end):
        return False
    start, end, _ = extend_to_full_address(text, candidate.span)
    behind = text[candidate.number_end : end]
    tail = weigh_address_tail(behind)
    is_year = PATTERNS["year"].match(candidate.number) is not None
    if is_year and (tail.weight < 2 or PATTERNS["any_year"].search(behind) or "-" in candidate.number):
        return False
    words_weight = _weight_of_words(text, start, end)
    is_torn = candidate.is_split and not (is_named or words_weight or tail.has_code)
    weight = tail.weight + words_weight + is_named + candidate.is_signed + context.is_apart(text, start, end)
    if is_torn or weight < enough:
        return False
    if not is_box and all(len(word) == 1 or PATTERNS["part_of_house"].fullmatch(word) for word in words):
        return tail.has_street or tail.has_code
    is_line = text[start - 1 : start] == "\n" and text[end : end + 1] in ("", "\n")
    is_proven = is_named or words_weight > 1 or tail.has_code or tail.has_street
    return bool(is_proven or (tail.is_known and (words_weight or is_line)))


def _weight_of_words(text: str, start: int, end: int) -> int:
    """The text around it supports an address."""
    if context.is_labelled(text, start):
        return 3
    if context.is_said_before(text, start) or context.is_said_after(text, end):
        return 2
    return int(context.has_address_context(text, start, end))


def weigh_address_tail(tail: str) -> AddressTail:
    """What the parts behind a street weigh."""
    if not tail or PATTERNS["more_numbers"].search(tail):
        return AddressTail(0, has_code=False, has_street=False, is_known=False)
    words = PATTERNS["letters"].findall(tail)
    has_town = any(word[0].isupper() and len(word) > 2 for word in words)
    is_known = any(word.lower() in PLACES for word in words if word[0].isupper())
    is_known = is_known or (has_town and not _REGIONS.isdisjoint(words))
    has_code = has_town and PATTERNS["any_postcode"].search(tail) is not None
    has_street = not _NAMES_STREETS.isdisjoint(map(str.lower, words))
    weight = 2 * has_code + 2 * has_street + (2 if is_known else int(has_town))
    weight += PATTERNS["has_unit"].search(tail) is not None
    return AddressTail(weight, has_code=has_code, has_street=has_street, is_known=is_known)


_NEAR, _LONGEST, _BEFORE, _BEHIND, _TOLD = 8, 7, 64, 110, 60
_GOES_ON = frozenset(" ,/-\nabcde")
_KEPT = RULES.words("kept")
_SMALL_REGIONS = (
    frozenset(map(str.lower, _REGIONS)) - _KEPT - {"or", "in", "me", "de", "la", "hi", "ok", "oh", "pa", "ma"}
)
_TELLING = (
    (CUES - RULES.words("no_hint"))
    | frozenset(word.strip(".") for word in FIRST_WORDS | context.LAST_WORDS if len(word) > 2)
    | frozenset(re.findall(r"[a-z]{2,}", " ".join(RULES.words("roads"))))
    | PLACES
)


def is_lowercase_around(text: str, at: int, end: int) -> bool:
    """Whether only small letters stand around a house number, and more of the address may follow; each is asked."""
    if text[end : end + 1] not in _GOES_ON or end - at > _LONGEST or text[end + 1 : end + 2].isdigit():
        return False
    return text[max(0, at - _NEAR) : at + 2 * _NEAR].islower()


def has_address_hint_nearby(text: str, at: int) -> bool:
    """Whether a word near this place names a street or a town, or says that somebody lives somewhere."""
    return not _TELLING.isdisjoint(context.split_words_and_marks(text[max(0, at - _TOLD) : at + _TOLD]))


def read_capitalized_context(text: str, at: int) -> tuple[str, int]:
    """Return the text around a position with its names and codes capitalized, and where it begins."""
    start = max(0, at - _BEFORE)
    start = text.find(" ", start, at) + 1 if start else 0
    return PATTERNS["small_word"].sub(_capital, text[start : at + _BEHIND]), start


def _capital(word: re.Match[str]) -> str:
    low = word[0]
    if PATTERNS["lowercase_code"].fullmatch(low):
        return low.upper()
    if low[0].isdigit() or low in _KEPT:
        return low
    if low in _SMALL_REGIONS:
        return low.upper()
    first = low[0].upper()
    return first + low[1:] if len(first) == 1 else low
