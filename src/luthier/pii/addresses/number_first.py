"""Addresses that begin with their number: *12 High Street*, *12 bis rue de la Paix*, *H.No. 65, Rao*."""

from __future__ import annotations

import re

from luthier.pii.addresses import scripts, streets
from luthier.pii.span import CandidateSpan

FLAT_REACH = 16
LONG_NUMBER = 3
_MONTHS = 12
_BEFORE_REACH = 25
UNIT = (
    r"(?:,? {1,2}(?i:apt|apartment|suite|unit|flat|floor|fl|ste|studio|piano|piso|puerta|portal|bajo|esc"
    r"|appartamento|interno|interior|edif|depto|int|top|m|lok|lgh|#)(?:\.| |\.? ?(?=\d))[\w-]{1,6})"
)
_TOWN = r"[A-Z][^\W\d_]{0,25}(?:(?:[ '’-]|(?<=[SD]t)\. )[A-Z][^\W\d_]{0,25}){0,2}"
_UK_CODE = r"[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}"
_POSTCODE = rf"(?:[A-Z]{{2}} )?\d{{4,5}}(?:-\d{{4}})?|{_UK_CODE}|[A-Z]\d[A-Z] ?\d[A-Z]\d"
PLACE = rf"(?:,? (?:{_POSTCODE})(?!\w)|(?:,|(?<!\.)) {_TOWN}(?![\w])){{0,4}}"
_ENGLISH = re.compile(
    rf"(?P<number>\d(?<![\w.,/$€£-]\d)\d{{0,4}}(?:[-/]\d{{1,4}})?[A-Za-z½]?)(?P<comma>,?) (?:[NSEW][EW]?\.? )?"
    rf"(?:(?:[A-Z][\w'’-]{{0,20}}|d[aeiu] [A-Z][\w'’-]{{0,20}}|\d{{1,3}}(?:st|nd|rd|th)) ){{1,4}}"
    rf"(?:(?i:(?P<road>{streets.ROADS}))|(?P<ground>(?i:{streets.GROUNDS}))|(?P<plain>(?i:{streets.PLAIN_GROUNDS})))"
    rf"\b\.?(?P<unit>{UNIT}?)(?P<place>{PLACE})"
)
FLAT = re.compile(
    r"(?<!\w)(?i:flat|studio|apartment|apt\.?|unit|suite|level|h\. ?no\.?|(?:house|plot|door|flat) no\.?)[ ]?"
    r"(?:\d{1,5}[A-Za-z]?,?[ ])?$"
)
"""What may stand before a house number, or before its own."""
_ROMANCE = re.compile(
    rf"\d(?<![\w.,/-]\d)\d{{0,4}}(?:[-/]\d{{1,4}})?(?: ?bis| ?ter| ?[A-Ca-c])?,? (?i:{streets.ROMANCE})"
    r" (?:(?:de|du|des|la|le|les|d['’]|l['’])[ ]?){0,2}(?:\d{1,2} )?[A-ZÀ-Ý][\w'’-]{0,20}"
    r"(?:[ -](?:(?:de|du|des|la|le|les|d['’]|l['’])[ ]?){0,2}[A-ZÀ-Ý][\w'’.-]{0,20}){0,4}(?: \d{4}(?=,))?"
    r"(?:,? \d{5} [A-ZÀ-Ý][\w'’-]{1,25})?"
)
_SMALL_ROMANCE = re.compile(
    rf"\d(?<![\w.,/-]\d)\d{{0,3}}(?: ?bis| ?ter"
    rf"|[a-c])?,? (?:{streets.ROMANCE})(?: [a-zà-ÿ'’-]{{1,20}}){{1,5}},? \d{{5}}(?!\w)"
)
_SMALL_ENGLISH = re.compile(
    rf"(?P<number>\d(?<![\w.,:/$€£-]\d)\d{{0,4}}[a-z]?) (?:[nsew]{{1,2}} )?"
    rf"(?:(?!(?:the|of|a|an|on|in|to|off|down|up|and|or|my|your|per) )(?:[a-z]{{2,20}}|\d{{1,3}}(?:st|nd|rd"
    rf"|th)) ){{1,3}}"
    rf"(?:{streets.ROADS}|ct|cir|pl)(?!\w)\.?(?:,? (?:apt|unit|suite|flat|#) ?\w{{1,5}})?"
    rf"(?P<place>(?:,? [a-z]{{2,20}}){{0,4}}?,? (?:\d{{5}}(?:-\d{{4}})?|[a-z]{{1,2}}\d[a-z\d]? ?\d[a-z]{{2}})(?!\w))?"
)
"""As people type them who have no capital letters."""
_HOUSE_NO = re.compile(r"(?<!\w)(?i:h\.? ?no\.?|(?:house|holding|plot|door|flat|shop) no\.?)[ ]?$")
_NAMED = re.compile(
    r"(?P<number>\d(?<![\w.,:/=>-]\d)\d{0,4}[A-Z]?(?:/\d{1,5})?)(?P<comma>,?) (?P<name>[A-Z][a-z]\w{0,25})"
    r"(?: [A-Z][a-z]\w{0,25}){0,2}(?!\w|,? \d| [A-Z])"
)
_WORD_BEFORE = re.compile(r"([\w'’-]{1,25})[ ]$")
_WORD_BEHIND = re.compile(r" ?[-–]? ?[A-Z\d]|-\w")
YEAR = re.compile(r"(?:19|20)\d\d(?!\d)")


def match_number_first_address(text: str, at: int) -> CandidateSpan | None:
    """A number, names and what the street is; the number begins at this place."""
    return _english(text, at) or _romance(text, at) or _small_english(text, at)


def match_number_and_name(text: str, at: int) -> CandidateSpan | None:
    """A number and a bare name, as in India and Bangladesh, where the word for a house or what is said prove it."""
    found = _NAMED.match(text, at)
    if found is None or found["name"].lower() in streets.CALENDAR or YEAR.match(text, at):
        return None
    house = _HOUSE_NO.search(text[max(0, at - FLAT_REACH) : at])
    if house:
        return CandidateSpan(at - len(house[0]), found.end())
    number = found["number"]
    is_house = text[at] == "0" or ("/" in number and _is_of_flats(number))
    is_part = bool(found["comma"]) and len(number) > 1
    is_sent = is_part and (len(number) >= LONG_NUMBER or scripts.is_preceded_by_at(text, at, scripts.AT_ENGLISH))
    is_said = (
        scripts.is_location_phrase_around(text, at, found.end())
        if is_house or is_sent
        else scripts.is_location_phrase_after(text, found.end())
    )
    is_near = scripts.is_preceded_by_address_label(text, at) or (
        (is_house or is_part) and scripts.is_location_cue_near(text, at)
    )
    return (
        CandidateSpan(at, found.end())
        if is_said or (is_near and scripts.is_standalone_phrase(text, at, found.end()))
        else None
    )


def _english(text: str, at: int) -> CandidateSpan | None:
    """Of a year, of a measure, or of a word that names much else, with a proof."""
    found = _ENGLISH.match(text, at)
    if found is None or (found["road"] is None and not (found["ground"] or found["plain"])[0].isupper()):
        return None
    flat = FLAT.search(text[max(0, at - FLAT_REACH) : at])
    span = CandidateSpan(at - len(flat[0]) if flat else at, found.end())
    is_odd = YEAR.match(text, at) is not None or found[0].split(" ", 2)[1].lower() in streets.MEASURES
    if found["road"] is not None and not is_odd and not found["comma"]:
        return span
    is_proven = (
        flat or _has_more(found) or scripts.is_location_phrase_around(text, *span[:2]) or _is_of_flats(found["number"])
    )
    return span if is_proven or _is_likely(text, found, span, counts=is_odd or _may_count(text, found)) else None


def _is_likely(text: str, found: re.Match[str], span: CandidateSpan, *, counts: bool) -> bool:
    """Whether, with nothing said of it, it stands where an address does, or counts what nobody counts."""
    if scripts.is_standalone_phrase(text, span.start, span.end):
        return not found["plain"] or (not counts and scripts.is_location_cue_near(text, span.start))
    if found["place"] or "/" in found["number"] or (found["comma"] and not found["road"]) or found[0].isupper():
        return False
    if YEAR.match(found["number"]):
        return False
    return scripts.is_preceded_by_at(text, found.start()) or _is_exact(found) or not (counts or found["plain"])


def _has_more(found: re.Match[str]) -> bool:
    """Whether a flat, a postcode or a town behind a comma follows."""
    return bool(found["unit"]) or "," in found["place"] or any(map(str.isdigit, found["place"]))


def _is_of_flats(number: str) -> bool:
    """Whether it names a flat and a house (`4/128`), and is no day and no part of a whole."""
    parts = re.findall(r"\d+", number)
    if len(parts) == 1:
        return False
    return max(map(len, parts)) >= LONG_NUMBER or number[0] == "0" or min(map(int, parts)) > _MONTHS


def _is_exact(found: re.Match[str]) -> bool:
    """Whether it counts so much, and so exactly, that it counts no things."""
    digits = found["number"]
    return len(digits) >= LONG_NUMBER and not digits.endswith("00") and not found[0].endswith("s")


def _may_count(text: str, found: re.Match[str]) -> bool:
    """Whether the number may tell how many, or which, of a thing: of one, of many, or in the middle of a title."""
    last = found["ground"] or found["plain"] or ""
    is_many = last.endswith("s") and not last.endswith(("ss", "us"))
    if is_many or found["number"] == "1" or found["number"][-1] in "kKmMgG":
        return True
    start = found.start()
    before = _WORD_BEFORE.search(text[max(0, start - _BEFORE_REACH) : start])
    is_glued = start > 0 and not text[start - 1].isspace()
    is_named = before is not None and (not before[0].islower() or before[1] in streets.NUMBERED)
    return is_glued or is_named or _WORD_BEHIND.match(text, found.end()) is not None


def _romance(text: str, at: int) -> CandidateSpan | None:
    found = _ROMANCE.match(text, at) or _SMALL_ROMANCE.match(text, at)
    return CandidateSpan(*found.span()) if found else None


def _small_english(text: str, at: int) -> CandidateSpan | None:
    """In small letters throughout: with a postcode, or where something is sent to."""
    found = _SMALL_ENGLISH.match(text, at)
    if found is None:
        return None
    is_sent = scripts.is_preceded_by_address_label(text, at) or (
        scripts.is_preceded_by_at(text, at, scripts.AT_ENGLISH) and scripts.is_location_cue_near(text, at)
    )
    return CandidateSpan(*found.span()) if found["place"] or is_sent else None
