"""Dates of birth: dates that a word near them makes personal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from luthier.text.pii import words
from luthier.text.pii.found import Marks, Span, Spans, areas, small_words

_MONTH = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mär|mai|okt|dez|janv|f[ée]v|avr|juin|juil|ao[ûu]|d[ée]c"
    r"|ene|abr|ago|dic|gen|mag|giu|lug|set|ott|mrt|mei|fev|abr|out|mars|maart|styczn|lut|kwie|maj|czerw|lip|sier|wrze|paź|list|grud)"
    r"[^\W\d_]{0,9}\.?"
)
_DATE = re.compile(
    r"\d(?<![\w./-]\d)(?:"
    r"\d{0,1}([./-])\d{1,2}\1(?:\d{4}|\d{2})"
    r"|\d{3}([./-])\d{1,2}\2\d{1,2}"
    rf"|\d?(?:st|nd|rd|th|er|\.)?(?:[ -]| de | of ){{1,2}}{_MONTH}(?:,? | de |-)\d{{4}}"
    r")(?![\w-]|[./]\d)",
    re.IGNORECASE,
)
_MONTH_FIRST = re.compile(rf"\b({_MONTH} )(\d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})$", re.IGNORECASE)
_YEAR_LAST = re.compile(r"\d(?<!\w\d)\d?(?:st|nd|rd|th)?,? (?:18|19|20)\d\d(?!\w)")
_WORD = re.compile(r"\w+(?:\.+\w+)*")
_WORDS_BEFORE = 6
_BORN_AFTER = re.compile(
    r"\W{1,3}(?:geboren|born|née?|nacid[oa]|nat[oa]|urodzon[ya])\b"
    r"|\W{1,3}(?:is|was|ist|es|est)? ?(?:my|his|her|the|mein|meine?|mi|ma)? ?(?:\w{1,8} )?"
    r"(?:birthday|birthdate|date of birth|dob|geburtstag|geburtsdatum|date de naissance|cumpleaños)\b",
    re.IGNORECASE,
)
_REACH = 60
_YEAR_CHARS = 4
_SHORTEST_DATE = 6
_DATE_NAMES = ("date", "datum")


def birth_dates(text: str, marks: Marks) -> Spans:
    """Dates that a word such as `born` or `DOB` stands before, or `is my birthday` behind."""
    for start, end, length in areas(text) if marks.areas is None else marks.areas:
        if length == _YEAR_CHARS or length >= _SHORTEST_DATE:
            for date in _dates(text, start, end):
                spoken = _WORD.findall(small_words(text[max(0, date.start - _REACH) : date.start]))[-_WORDS_BEFORE:]
                if _is_said_of(spoken) or _BORN_AFTER.match(text, date.end):
                    yield date


def _is_said_of(spoken: Sequence[str]) -> bool:
    """Whether words before a date speak of a birth, and the last does not name another date (`current_date`)."""
    if words.BORN.isdisjoint(spoken):
        return False
    return not spoken[-1].endswith(_DATE_NAMES) or not words.BORN.isdisjoint(spoken[-2:])


def _dates(text: str, start: int, end: int) -> Spans:
    for found in _DATE.finditer(text, start, end):
        yield Span(*found.span())
    for found in _YEAR_LAST.finditer(text, start, end):
        month = _MONTH_FIRST.search(text[max(0, found.start() - 14) : found.end()])
        if month:
            yield Span(found.end() - len(month[0]), found.end())
