"""Extend a street address to its full extent: flats, floors, districts, post codes, towns, states.

From a street with its number, parts of addresses are taken to the right, one after another, and flats and floors once
to the left. A post code also identifies an address without a street word: a name, a number, flats, then the code and
its town. A code of four digits, or of six behind its town, needs words of residence, for years and counts look alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.pii.addresses import context
from luthier.pii.addresses.context import CALENDAR, FIRST_WORDS, PATTERNS, PLACES, RULES
from luthier.pii.span import CandidateSpan, Spans, TextPrescan

_MOST_PARTS = 9
_LEFT_REACH, _REACH = 80, 110
_PARTS = [PATTERNS[name] for name in ("glued", "part", "code_before", "code_alone")]
_AFTER_TOWN = [PATTERNS[name] for name in ("code_behind", "state", "slash_town")]
_NO_TOWN = RULES.words("no_town") | CALENDAR
_MONTHS = CALENDAR | RULES.words("months")
_SAYERS = RULES.words("sayers")
"""After them an address may follow at once."""
_SMALL = context.PREPOSITIONS | context.IS | RULES.words("articles")
_MOST_SMALL = 5


def extend_to_full_address(text: str, span: CandidateSpan) -> CandidateSpan:
    """The whole of an address that has this street and number in it."""
    return CandidateSpan(_begin(text, span.start), _end(text, span), span.form)


def _begin(text: str, start: int) -> int:
    before = text[max(0, start - _LEFT_REACH) : start]
    if not before.endswith((" ", "\n", "#")):
        return start
    match = PATTERNS["flat_before"].search(before)
    if match is None:
        match = PATTERNS["town_first"].search(before)
    elif match["number"] is not None and not PATTERNS["street_type_next"].match(text, start):
        match = None
    return start - len(match[0]) if match else start


def _end(text: str, span: CandidateSpan) -> int:
    at = span.end
    has_town = "," in text[span.start : at] and text[at - 1].isalpha()
    has_town = has_town or text[span.start : at].rpartition(" ")[2].lower() in PLACES
    is_small = not any(map(str.isupper, text[span.start : span.end]))
    for _ in range(_MOST_PARTS):
        match = _first_match(_PARTS, text, at)
        is_town = match is not None and match.re is PATTERNS["code_before"]
        if match is None:
            match = _town(text, at, is_small=is_small, has_town=has_town)
            is_town = True
        if match is None:
            break
        has_town = has_town or is_town
        at = match.end()
    return at


def _first_match(patterns: list[re.Pattern[str]], text: str, at: int) -> re.Match[str] | None:
    return next((match for pattern in patterns if (match := pattern.match(text, at))), None)


def _town(text: str, at: int, *, is_small: bool, has_town: bool) -> re.Match[str] | None:
    """A district, a town, or what follows one."""
    match = _first_match(_AFTER_TOWN, text, at) if has_town else None
    match = match or PATTERNS["district"].match(text, at)
    if is_small and not has_town:
        match = match or PATTERNS["small_before"].match(text, at) or PATTERNS["small_town"].match(text, at)
    if match:
        return match
    match = PATTERNS["town_part"].match(text, at) or PATTERNS["town_by_code"].match(text, at) or _known_town(text, at)
    first = re.search(r"[^\W\d_]+", match[0]) if match else None
    return None if first is None or first[0].lower() in _NO_TOWN else match


def _known_town(text: str, at: int) -> re.Match[str] | None:
    """A town that many know, behind nothing but a blank."""
    match = PATTERNS["town_known"].match(text, at)
    return match if match and not PLACES.isdisjoint(match[0].lower().split()) else None


def find_addresses_by_postcode(text: str, marks: TextPrescan) -> Spans:
    """Addresses before a post code with its town, or before a town with its code of six digits."""
    for code in _codes(text, marks):
        before = text[max(0, code.start() - _REACH) : code.start()]
        start = _begin_of_six(text, before, code) if code["six"] is not None else _begin_of_lines(text, before, code)
        if start is not None:
            yield CandidateSpan(start, code.end())


def _codes(text: str, marks: TextPrescan) -> Iterator[re.Match[str]]:
    """What may be a code, with its town or behind it; it only begins where digits do."""
    pattern = PATTERNS["code_with_town"]
    if marks.digits is None:
        yield from pattern.finditer(text)
    elif marks.areas:
        yield from (match for at in marks.digits if (match := pattern.match(text, at)))


def _begin_of_lines(text: str, before: str, code: re.Match[str]) -> int | None:
    """Where an address begins that a code and its town end."""
    begin = PATTERNS["line_before_code"].search(before)
    if begin is None or _counts(begin, code[0]):
        return None
    start = find_address_start(text, code.start(), begin[0])
    is_told = (begin["sign"] is None and code["short"] is None) or context.is_cue_near(text, code.start())
    is_code = begin["sign"] is None and not PATTERNS["year"].match(code[0])
    return start if is_told or (is_code and context.is_apart(text, start, code.end())) else None


def _begin_of_six(text: str, before: str, code: re.Match[str]) -> int | None:
    """Where an address begins that a town and its code of six digits end."""
    begin = PATTERNS["lines_before_six"].search(before)
    if begin is None:
        return None
    start = code.start() - len(begin[0])
    return start if PATTERNS["says_house"].match(begin[0]) or context.is_cue_near(text, start) else None


def _counts(begin: re.Match[str], code: str) -> bool:
    """Whether a number says which of many (*line 12, 50000 Rows*), or is a day before its year."""
    before = begin[0][: begin.start("house") - begin.start()] if begin["house"] else ""
    last = before.lower().split()[-1:]
    is_which = last != ["gate"] and not context.NUMBERED.isdisjoint(last) and not any(map(str.isdigit, before))
    return is_which or (not _MONTHS.isdisjoint(last) and PATTERNS["year"].match(code) is not None)


def find_address_start(text: str, end: int, line: str) -> int:
    """Where an address begins that ends in this line: not with the sentence it is in, and with what its street is."""
    start = end - len(line)
    start += _of_sentence(line) or max((found.end() for found in PATTERNS["goes_to"].finditer(line)), default=0)
    before = text[max(0, start - 15) : start].split(" ")
    if len(before) > 1 and not before[-1] and before[-2].lower() in FIRST_WORDS:
        return start - len(before[-2]) - 1
    return start


def _of_sentence(line: str) -> int:
    """How many characters of a line say where something is, not what: *Ich wohne in der Hauptstraße 5*."""
    words = line.split(" ")
    lowered = [word.lower().replace("’", "'").rpartition("'")[2] for word in words]
    cue = next((at for at, word in enumerate(lowered) if word in context.CUES or word in _SAYERS), None)
    if cue is None or lowered[cue] in FIRST_WORDS:
        return 0
    for at in range(cue, min(cue + _MOST_SMALL, len(words) - 1)):
        follows, low = words[at + 1][:1], lowered[at + 1]
        is_street = low in FIRST_WORDS or follows.isupper() or follows.isdigit()
        is_small = lowered[at] in _SMALL if at > cue else lowered[at] in _SAYERS or low in FIRST_WORDS
        if is_small and is_street and low not in _SMALL:
            return len(" ".join(words[: at + 1])) + 1
    return 0
