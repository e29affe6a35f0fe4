"""Addresses that begin with their number: *12 High Street*, *12 bis rue de la Paix*, *H.No. 65, Rao*."""

from __future__ import annotations

import re

from luthier.pii.addresses import context
from luthier.pii.addresses.context import PATTERNS, RULES
from luthier.pii.span import CandidateSpan

FLAT_REACH, LONG_NUMBER = 16, 3
_MONTHS, _BEFORE_REACH = 12, 25
_MEASURES = RULES.words("measures")


def match_number_first_address(text: str, at: int) -> CandidateSpan | None:
    """A number, names and what the street is; the number begins at this place."""
    if candidate_span := _english(text, at):
        return candidate_span
    if match := PATTERNS["romance"].match(text, at):
        return CandidateSpan(*match.span())
    match = PATTERNS["small_english"].match(text, at)
    if match is None:
        return None
    is_sent = context.is_labelled(text, at) or (
        context.is_at(text, at, context.AT_ENGLISH) and context.is_cue_near(text, at)
    )
    return CandidateSpan(*match.span()) if match["place"] or is_sent else None


def match_number_and_name(text: str, at: int) -> CandidateSpan | None:
    """A number and a bare name, as in India and Bangladesh, where the word for a house or what is said prove it."""
    match = PATTERNS["number_and_name"].match(text, at)
    if match is None or match["name"].lower() in context.CALENDAR or PATTERNS["year"].match(text, at):
        return None
    if house := PATTERNS["house_no"].search(text[max(0, at - FLAT_REACH) : at]):
        return CandidateSpan(at - len(house[0]), match.end())
    number, end = match["number"], match.end()
    is_house = text[at] == "0" or ("/" in number and _is_of_flats(number))
    is_part = bool(match["comma"]) and len(number) > 1
    is_sent = is_part and (len(number) >= LONG_NUMBER or context.is_at(text, at, context.AT_ENGLISH))
    is_said = context.has_address_context(text, at, end) if is_house or is_sent else context.is_said_after(text, end)
    is_near = context.is_labelled(text, at) or ((is_house or is_part) and context.is_cue_near(text, at))
    return CandidateSpan(at, end) if is_said or (is_near and context.is_apart(text, at, end)) else None


def _english(text: str, at: int) -> CandidateSpan | None:
    """Of a year, of a measure, or of a word that names much else, with a proof."""
    match = PATTERNS["english"].match(text, at)
    if match is None or (match["road"] is None and not (match["ground"] or match["plain"])[0].isupper()):
        return None
    flat = PATTERNS["flat"].search(text[max(0, at - FLAT_REACH) : at])
    span = CandidateSpan(at - len(flat[0]) if flat else at, match.end())
    is_odd = PATTERNS["year"].match(text, at) is not None or match[0].split(" ", 2)[1].lower() in _MEASURES
    if match["road"] is not None and not is_odd and not match["comma"]:
        return span
    has_more = match["unit"] or "," in match["place"] or any(map(str.isdigit, match["place"]))
    if flat or has_more or context.has_address_context(text, span.start, span.end) or _is_of_flats(match["number"]):
        return span
    return span if _is_likely(text, match, span, counts=is_odd or _may_count(text, match)) else None


def _is_likely(text: str, found: re.Match[str], span: CandidateSpan, *, counts: bool) -> bool:
    """Whether, with nothing said of it, it stands where an address does, or counts what nobody counts."""
    if context.is_apart(text, span.start, span.end):
        return not found["plain"] or (not counts and context.is_cue_near(text, span.start))
    number = found["number"]
    if found["place"] or "/" in number or (found["comma"] and not found["road"]) or found[0].isupper():
        return False
    if PATTERNS["year"].match(number):
        return False
    is_exact = len(number) >= LONG_NUMBER and not number.endswith("00") and not found[0].endswith("s")
    return context.is_at(text, found.start()) or is_exact or not (counts or found["plain"])


def _is_of_flats(number: str) -> bool:
    """Whether it names a flat and a house (`4/128`), and is no day and no part of a whole."""
    parts = re.findall(r"\d+", number)
    if len(parts) == 1:
        return False
    return max(map(len, parts)) >= LONG_NUMBER or number[0] == "0" or min(map(int, parts)) > _MONTHS


def _may_count(text: str, found: re.Match[str]) -> bool:
    """Whether the number may tell how many, or which, of a thing: of one, of many, or in the middle of a title."""
    last, start = found["ground"] or found["plain"] or "", found.start()
    is_many = last.endswith("s") and not last.endswith(("ss", "us"))
    if is_many or found["number"] == "1" or found["number"][-1] in "kKmMgG":
        return True
    before = PATTERNS["word_before"].search(text[max(0, start - _BEFORE_REACH) : start])
    is_named = before is not None and (not before[0].islower() or before[1] in context.NUMBERED)
    is_glued = start > 0 and not text[start - 1].isspace()
    return is_glued or is_named or PATTERNS["word_behind"].match(text, found.end()) is not None
