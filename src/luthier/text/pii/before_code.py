"""Addresses that are told by their post code: a name, a number, flats, then the code and its town, in Europe's order.

Five digits and those with a space or a dash inside prove themselves; of four, and of six behind a town, something has
to say that somebody lives there, since years and counts look alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.text.pii import streets, told
from luthier.text.pii.extent import CAP, NUMBERED_PART
from luthier.text.pii.found import Marks, Span, Spans

_REACH = 110
_CAP = CAP
_CODE = re.compile(
    rf"\d(?:(?<=[,\s–-]\s\d)(?:\d{{4}}|(?P<short>\d{{3}})|\d{{3}} [A-Z]{{2}}|\d\d \d\d|\d-\d{{3}}|\d{{3}}-\d{{3}}) "
    rf"{_CAP}[^\W\d_]{{1,25}}(?:[ -](?:[a-z]{{2,3}} )?{_CAP}[^\W\d_]{{1,25}})?"
    r"|(?<=[a-z–,-] \d)(?:\d{5}|\d\d \d{3})(?!\w)(?P<six>))"
)
_HOUSE = (
    rf"\d{{1,4}} ?[A-Za-z]?(?:[-/]\w{{1,4}}){{0,2}}(?: [A-Z]\d{{0,2}}| \d{{1,3}})?"
    rf"(?:,? (?i:{NUMBERED_PART})[.:]{{0,2}} ?(?:\d[\w-]{{0,4}}|[A-Z])(?!\w)){{0,3}}(?:, [\w.º ]{{1,15}})?"
)
_LINES = re.compile(
    rf"(?:{_CAP}[\w'’.-]{{0,60}}(?: [\w'’.-]{{1,60}}){{0,5}},? (?P<sign>(?i:no"
    rf"|nr)[.:]{{0,2}} ?)?(?P<house>{_HOUSE}|s/n)"
    rf"|[Ll]ieu-?dit [\w'’-]{{1,60}}(?: [\w'’-]{{1,60}}){{0,3}} ?)(?:,\s{{1,3}}|\n| [-–] )$"
)
_LINES_OF_SIX = re.compile(
    r"(?:(?i:flat|h\. ?no|house no|plot no|plot|door no|shop no|shop|no|unit|apt)[.:]{0,2} ?|#[ ]?"
    r"|(?:[A-Z]-?)?(?=\d))"
    r"\w{1,5}(?:[-/]\w{1,5}){0,3}(?:[ ][\w'’.-]{1,20}){0,3}(?:, |,?\n)"
    r"(?:[A-Z\d][\w'’.-]{0,20}(?: [\w'’.-]{1,20}){0,3}(?:, "
    r"|,?\n)){0,5}[A-Z][a-z]{1,20}(?: [A-Z][a-z]{1,20})?,?(?: ?[-–])? ?$"
)
_SAYS_HOUSE = re.compile(r"#|[A-Z]-?\d|(?i:flat|h\. ?no|house|plot|door|shop|unit|apt)")
_ARTICLES = frozenset({"der", "die", "das", "dem", "den", "la", "le", "el", "il", "het", "de"})
_YEAR = re.compile(r"(?:19|20)\d\d(?!\d)")
_MONTHS = streets.CALENDAR | streets.MONTHS
_SAYERS = told.LIVES | told.SAID | {"adresim", "címem", "lakcímem", "adrese", "asun"}
"""After them an address may follow at once."""
_MOST_SMALL = 5
_GOES = re.compile(rf"[^\W\d_] (?:{'|'.join(sorted(told.AT_ENGLISH))}) (?=[A-Z\d])")
"""Behind a number `to` says how far it goes: *Units 3 to 5*."""


def told_by_code(text: str, marks: Marks) -> Spans:
    """Addresses before a post code with its town, or before a town with its code of six digits."""
    for code in _codes(text, marks):
        before = text[max(0, code.start() - _REACH) : code.start()]
        start = _begin_of_six(text, before, code.start()) if code["six"] is not None else _begin(text, before, code)
        if start is not None:
            yield Span(start, code.end())


def _codes(text: str, marks: Marks) -> Iterator[re.Match[str]]:
    """What may be a code, with its town or behind it; it only begins where digits do."""
    if marks.digits is None:
        yield from _CODE.finditer(text)
        return
    match = _CODE.match
    for at in marks.digits if marks.areas else ():
        if found := match(text, at):
            yield found


def _begin(text: str, before: str, code: re.Match[str]) -> int | None:
    """Where an address begins that a code and its town end."""
    begin = _LINES.search(before)
    if begin is None or _counts(begin, code[0]):
        return None
    start = begin_of(text, code.start(), begin[0])
    if begin["sign"]:
        return start if told.is_told_near(text, code.start()) else None
    return start if code["short"] is None or _is_told(text, start, code) else None


def _begin_of_six(text: str, before: str, end: int) -> int | None:
    """Where an address begins that a town and its code of six digits end."""
    begin = _LINES_OF_SIX.search(before)
    if begin is None:
        return None
    start = end - len(begin[0])
    return start if _SAYS_HOUSE.match(begin[0]) or told.is_told_near(text, start) else None


def _counts(begin: re.Match[str], code: str) -> bool:
    """Whether a number says which of many (*line 12, 50000 Rows*), or is a day before its year."""
    before = begin[0][: begin.start("house") - begin.start()] if begin["house"] else ""
    words = before.lower().split()
    if not words:
        return False
    is_which = words[-1] in streets.NUMBERED and words[-1] != "gate" and not any(map(str.isdigit, before))
    return is_which or (words[-1] in _MONTHS and _YEAR.match(code) is not None)


def _is_told(text: str, start: int, code: re.Match[str]) -> bool:
    """Whether four digits are a post code: somebody lives there, or no year stands in a line of its own."""
    if told.is_told_near(text, code.start()):
        return True
    return not _YEAR.match(code[0]) and told.is_apart(text, start, code.end())


def begin_of(text: str, end: int, line: str) -> int:
    """Where an address begins that ends in this line: not with the sentence it is in, and with what its street is."""
    start = end - len(line)
    start += _of_sentence(line) or _of_what_goes_there(line)
    before = text[max(0, start - 15) : start].split(" ")
    if len(before) > 1 and not before[-1] and before[-2].lower() in streets.FIRST_WORDS:
        return start - len(before[-2]) - 1
    return start


def _of_sentence(line: str) -> int:
    """How many characters of a line say where something is, not what: *Ich wohne in der Hauptstraße 5*."""
    words = line.split(" ")
    said = [word.lower().replace("’", "'").rpartition("'")[2] for word in words]
    cue = next((at for at, word in enumerate(said) if word in told.CUES or word in _SAYERS), None)
    if cue is None or said[cue] in streets.FIRST_WORDS:
        return 0
    small = told.PREPOSITIONS | told.IS | _ARTICLES
    for at in range(cue, min(cue + _MOST_SMALL, len(words) - 1)):
        follows = words[at + 1]
        is_street = follows[:1].isupper() or follows[:1].isdigit() or said[at + 1] in streets.FIRST_WORDS
        is_small = said[at] in small if at > cue else said[at] in _SAYERS or said[at + 1] in streets.FIRST_WORDS
        if is_small and is_street and said[at + 1] not in small:
            return len(" ".join(words[: at + 1])) + 1
    return 0


def _of_what_goes_there(line: str) -> int:
    """How many characters say what goes to an address or comes from there: *SIM to 14 Larkspur Mews*."""
    return max((found.end() for found in _GOES.finditer(line)), default=0)
