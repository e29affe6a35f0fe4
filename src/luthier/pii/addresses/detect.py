"""Postal addresses: by what streets are called, by the lines before a postcode, and by words that say where one lives.

A word that is hardly anything but a street (*Road*, *straße*, *Calle*) makes an address of a name and a number. One
that names much else (*Point*, *Platz*, *Via*) needs a proof as well: somebody lives or sends something there, a flat, a
postcode or a town follows, or the whole stands apart in a line or between commas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from luthier.pii.addresses import context, evidence
from luthier.pii.addresses.context import FIRST_WORDS, PATTERNS, RULES, SAID
from luthier.pii.addresses.evidence import weigh_address_at, weigh_address_tail
from luthier.pii.addresses.extent import extend_to_full_address, find_address_start, find_addresses_by_postcode
from luthier.pii.addresses.number_first import (
    LONG_NUMBER,
    match_number_and_name,
    match_number_first_address,
)
from luthier.pii.span import CandidateSpan, Spans, TextPrescan

_REACH, _LINES_REACH, _LONG_NAME, _ENOUGH_IN_SMALL = 60, 110, 8, 4
_POSTCODE_GROUP = 3
_NO_GERMAN = context.CALENDAR | context.NUMBERED
_GERMAN_SMALL, _ENGLISH_TOO, _SHORT = (RULES.words(name) for name in ("german_small", "english_too", "short"))
_ENDS, _ENDS_AT_TIMES, _ENDS_SELDOM, _NO_ENDS = (
    tuple(RULES.words(name)) for name in ("ends", "ends_at_times", "ends_seldom", "no_ends")
)
_SMALL_ENDS, _NO_STREET = RULES.words("small_ends"), RULES.words("no_street")
_TELLING = FIRST_WORDS | SAID
_LAST_TWO = frozenset(end[-2:] for end in (*_ENDS, *_ENDS_AT_TIMES, *_ENDS_SELDOM))
"""Where no word is one of the first and the last ends in none of the second, no street is named."""
_SIGN_ENDS = frozenset(".:º°#№")
_ALONE_WORDS, _MARKS_BEFORE = RULES.words("alone_words"), '("“„«'
_APART = str.maketrans(dict.fromkeys('(;="<>|{[,', " "))
"""Marks that part words, besides blanks."""
_LONGEST_CUT = 4
"""Letters of a word that is cut short, such as *Blvd.* and *Pkwy.*"""
_SHORT_WHOLE = RULES.words("whole")


def find_numbered_addresses(text: str, marks: TextPrescan) -> Spans:
    """A house number with a street, or what stands before a postcode, in the orders that countries use.

    Each comes as wide as its address is and, should something else have a piece of that, as it was found.
    """
    if not text.isascii() and _has_other_script(text):
        from luthier.pii.addresses.other_scripts import (
            find_non_latin_addresses,  # its patterns take long to compile, and few texts need them
        )

        yield from find_non_latin_addresses(text)
    for whole in find_addresses_by_postcode(text, marks):
        yield extend_to_full_address(text, whole)
        yield whole
    numbers = list(_house_numbers(text, marks.digits))
    for number in numbers:
        if number.lastindex == _POSTCODE_GROUP:
            yield from _behind_lines(text, number)
    for number in numbers:
        if candidate_span := _of_number(text, number):
            yield _without_stop(text, extend_to_full_address(text, candidate_span))
            yield _without_stop(text, candidate_span)


def _without_stop(text: str, span: CandidateSpan) -> CandidateSpan:
    """An address without the stop of its sentence; that of a word cut short is its own: *12 Main St.*"""
    word = text[span.start : span.end - 1].rpartition(" ")[2]
    is_whole = word.isalpha() and (len(word) > _LONGEST_CUT or word.lower() in _SHORT_WHOLE)
    return span._replace(end=span.end - 1) if is_whole and text[span.end - 1] == "." else span


def _has_other_script(text: str) -> bool:
    """Whether a sign is of another script than Latin; of Western Europe's, that is told quicker than by the pattern."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return PATTERNS["other_script"].search(text) is not None
    return False


def _of_number(text: str, number: re.Match[str]) -> CandidateSpan | None:
    """The street that a house number belongs to, with the number."""
    at, end, has_words = number.start(), number.end(), number.lastindex
    is_counted = at > 1 and text[at - 1] == " " and text[at - 2].isdigit()
    if has_words is None and (is_counted or text[end : end + 1].isdigit()):
        return None
    if has_words and (candidate_span := match_number_first_address(text, at)):
        return candidate_span
    candidate_span = None if is_counted else _behind_street(text, at)
    candidate_span = candidate_span or (match_number_and_name(text, at) if has_words else None)
    if candidate_span or is_counted:
        return candidate_span
    candidate_span = weigh_address_at(text, at, end)
    return candidate_span or (_in_small_letters(text, at) if evidence.is_lowercase_around(text, at, end) else None)


def _in_small_letters(text: str, at: int) -> CandidateSpan | None:
    """The whole address around a number in a stretch of small letters, which is read as if it had capitals."""
    if not evidence.has_address_hint_nearby(text, at):
        return None
    raised, start = evidence.read_capitalized_context(text, at)
    begin = at - start
    number = PATTERNS["house_number"].match(raised, begin)
    candidate_span = match_number_first_address(raised, begin) if number and number.lastindex else None
    candidate_span = (
        candidate_span
        if candidate_span and PATTERNS["road_or_code"].search(raised, *candidate_span[:2])
        else _behind_street(raised, begin)
    )
    candidate_span = candidate_span if candidate_span and _is_where_in_small(raised, candidate_span) else None
    candidate_span = candidate_span or (
        weigh_address_at(raised, begin, number.end(), _ENOUGH_IN_SMALL) if number else None
    )
    if not candidate_span:
        return None
    whole = extend_to_full_address(raised, candidate_span)
    return CandidateSpan(whole.start + start, whole.end + start)


def _is_where_in_small(raised: str, found: CandidateSpan) -> bool:
    """Whether a post code or a known town follows, or somebody lives or has something sent there."""
    tail = weigh_address_tail(raised[found.start : extend_to_full_address(raised, found).end])
    is_said = context.is_labelled(raised, found.start) or context.is_said_before(raised, found.start)
    return tail.has_code or tail.is_known or is_said or context.is_apart(raised, found.start, found.end)


def _house_numbers(text: str, digits: Sequence[int] | None) -> Iterator[re.Match[str]]:
    """What the pattern of house numbers finds in a text; it only matches where digits begin."""
    if digits is None:
        yield from PATTERNS["house_number"].finditer(text)
        return
    end, match = 0, PATTERNS["house_number"].match
    for at in digits:
        if at >= end and (found := match(text, at)):
            end = found.end()
            yield found


def _behind_lines(text: str, code: re.Match[str]) -> Spans:
    """An address that ends in a postcode, with or without its town."""
    begin = PATTERNS["lines_before_uk"].search(text[max(0, code.start() - _LINES_REACH) : code.start()])
    if begin:
        candidate_span = CandidateSpan(find_address_start(text, code.start(), begin[0]), code.end())
        yield extend_to_full_address(text, candidate_span)
        yield candidate_span


def _behind_street(text: str, at: int) -> CandidateSpan | None:
    """A house number behind the name of its street."""
    house = PATTERNS["house"].match(text, at)
    if house is None:
        return None
    before = text[max(0, at - _REACH) : at]
    is_signed = before[-2:-1] in _SIGN_ENDS or before[-1:] in _SIGN_ENDS
    sign = PATTERNS["number_sign"].search(before) if is_signed else None
    street, is_sure = _street_before(before[: sign.start()] + " " if sign else before)
    if not street:
        grid = PATTERNS["grid"].match(text, at)
        first = PATTERNS["grid_first"].search(before) if grid else None
        return CandidateSpan(at - len(first[0]), grid.end()) if grid and first else None
    if sign:
        return CandidateSpan(sign.start() + at - len(before) + 1 - len(street), house.end())
    start, end = at - len(street), house.end()
    is_sure = (is_sure and not PATTERNS["year"].match(text, at)) or bool(house["more"])
    is_initial = street[1] == "." and not (
        PATTERNS["rua_of"].match(street) or len(re.findall(r"\d", house[0])) >= LONG_NUMBER
    )
    if is_sure or (not is_initial and context.is_apart(text, start, end)) or _is_where(text, start, end):
        return CandidateSpan(start, end)
    return None


def find_unnumbered_addresses(text: str, _marks: TextPrescan) -> Spans:
    """Streets whose houses have none, and streets where somebody lives."""
    if "/N" in text or "/n" in text:
        for none in PATTERNS["no_number"].finditer(text):
            street, _ = _street_before(text[max(0, none.start() - _REACH) : none.start()])
            if street:
                yield CandidateSpan(none.start() - len(street), none.end())
    if _names_a_street(text):
        for match in PATTERNS["unnumbered"].finditer(text):
            start, end = match.start(), match.end() - match[0].endswith(".")
            is_where = _is_where(text, start, end) or context.is_apart(text, start, end)
            if is_where or PATTERNS["french_of"].match(match[0]):
                yield CandidateSpan(start, end)
    for match in PATTERNS["alone"].finditer(text) if _names_one_alone(text) else ():
        start, end = match.start("all"), match.end() - match[0].endswith(".")
        is_near = match["street"] or context.is_cue_near(text, start)
        if context.has_address_context(text, start, end) or (is_near and context.is_apart(text, start, end)):
            yield CandidateSpan(start, end)
    is_likely = "ox " in text or "BOX " in text or "ost" in text or "partado" in text
    if is_likely and _names_a_box(text.lower()):
        yield from (CandidateSpan(*entry.span()) for entry in PATTERNS["box"].finditer(text))


def _names_a_street(text: str) -> bool:
    """Whether such a name is worth looking for; written out, since every text is asked."""
    return (
        ("ue " in text and ("rue " in text or "Rue " in text or "venue " in text))
        or ("rua " in text or "Rua " in text or "alle " in text or "venida " in text or "hemin " in text)
        or ("ulevard " in text or "mpasse " in text or "iale " in text or "iazza " in text or "ulica " in text)
    )


def _names_one_alone(text: str) -> bool:
    """Whether a word is there that makes a street of a name, or a mark that may hide one from this look."""
    return not _ALONE_WORDS.isdisjoint(text.split()) or any(mark in text for mark in _MARKS_BEFORE)


def _names_a_box(low: str) -> bool:
    """Whether a text in small letters names a box of a post office."""
    is_post = "post" in low and ("fach " in low or "postale " in low or "postbus " in low or "postboks " in low)
    return is_post or "box " in low or "apartado" in low


def _street_before(before: str) -> tuple[str, bool]:
    """The name of a street that ends a text, and whether it can be little else."""
    spoken = before.lower().translate(_APART).split()
    is_german = not _GERMAN_SMALL.isdisjoint(spoken[-3:-1]) and spoken[-1] not in _NO_GERMAN
    if is_german and (german := PATTERNS["german"].search(before)):
        return german[0], False
    if _TELLING.isdisjoint(spoken) and not (
        spoken and (spoken[-1][-2:] in _LAST_TWO or spoken[-1] in context.LAST_WORDS)
    ):
        return "", False
    if not FIRST_WORDS.isdisjoint(spoken) and (first := PATTERNS["type_first"].search(before)):
        kind = first["unsure"] or ""
        is_short = kind in _SHORT and not before[: first.start()].endswith("et ")
        return first[0], not kind or is_short or (kind[0].isupper() and kind.lower() not in _ENGLISH_TOO)
    return _street_ended(before, spoken[-1] if spoken else "")


def _street_ended(before: str, end: str) -> tuple[str, bool]:
    """The same of a street that its last word tells, or how that ends."""
    if end in context.LAST_WORDS and (last := PATTERNS["before_last"].search(before)):
        return last[0], end in context.LAST
    is_sure, is_known = end.endswith(_ENDS), end.endswith(_ENDS_AT_TIMES)
    last = PATTERNS["last_word"].search(before) if is_sure or is_known or end.endswith(_ENDS_SELDOM) else None
    if last is None or not (is_sure or _may_be_street(last[0])):
        return "", False
    return last[0], is_sure or (is_known and len(last[0]) > _LONG_NAME)


def _may_be_street(name: str) -> bool:
    *names, word = name.split()
    low = word.lower()
    if word in _SMALL_ENDS:
        return bool(names) and names[-1].endswith("n")
    if not word[0].isupper() or low in _NO_STREET or low.endswith(_NO_ENDS):
        return False
    return bool(names) or low not in _ENDS_AT_TIMES


def _is_where(text: str, start: int, end: int) -> bool:
    return context.is_at(text, start) or context.has_address_context(text, start, end)
