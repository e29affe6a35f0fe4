"""Postal addresses: by what streets are called, by the lines before a postcode, and by words that say where one lives.

A word that is hardly anything but a street (*Road*, *straße*, *Calle*) makes an address of a name and a number. One
that names much else (*Point*, *Platz*, *Via*) needs a proof as well: somebody lives or sends something there, a flat, a
postcode or a town follows, or the whole stands apart in a line or between commas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from luthier.text.pii import streets
from luthier.text.pii.found import Marks, Span, Spans, near

_REACH = 60
_LINES_REACH = 110
_CUE_REACH = 60
_CUE_WORDS = 8
_FLAT_REACH = 16
_LONG_NAME = 8
_LONG_NUMBER = 3
_MONTHS = 12
_AT_REACH = 10
_POSTCODE_GROUP = 3
_UNIT = (
    r"(?:,? {1,2}(?i:apt|apartment|suite|unit|flat|floor|fl|ste|studio|piano|piso|puerta|portal|bajo|esc"
    r"|appartamento|interno|interior|edif|depto|int|top|m|lok|lgh|#)(?:\.| |\.? ?(?=\d))[\w-]{1,6})"
)
_TOWN = r"[A-Z][^\W\d_]{0,25}(?:(?:[ '’-]|(?<=[SD]t)\. )[A-Z][^\W\d_]{0,25}){0,2}"
_UK_CODE = r"[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}"
_POSTCODE = rf"(?:[A-Z]{{2}} )?\d{{4,5}}(?:-\d{{4}})?|{_UK_CODE}|[A-Z]\d[A-Z] ?\d[A-Z]\d"
_PLACE = rf"(?:,? (?:{_POSTCODE})(?!\w)|(?:,|(?<!\.)) {_TOWN}(?![\w])){{0,4}}"
_ENGLISH = re.compile(
    rf"\d(?<![\w.,/$€£-]\d)\d{{0,4}}(?:/\d{{1,4}})?[A-Za-z]?(?P<comma>,?) (?:[NSEW]\.? )?"
    rf"(?:(?:[A-Z][\w'’-]{{0,20}}|d[aeiu] [A-Z][\w'’-]{{0,20}}|\d{{1,3}}(?:st|nd|rd|th)) ){{1,4}}"
    rf"(?:(?i:(?P<road>{streets.ROADS}))|(?P<ground>(?i:{streets.GROUNDS})|(?P<plain>(?i:{streets.PLAIN_GROUNDS}))))"
    rf"\b\.?(?P<unit>{_UNIT}?)(?P<place>{_PLACE})"
)
_FLAT = re.compile(
    r"(?<!\w)(?i:flat|studio|apartment|apt\.?|unit|suite|level|h\. ?no\.?|(?:house|plot|door|flat) no\.?)[ ]?"
    r"(?:\d{1,5}[A-Za-z]?,?[ ])?$"
)
"""What may stand before a house number, or before its own."""
_ROMANCE = re.compile(
    rf"\d(?<![\w.,/-]\d)\d{{0,3}}(?: ?bis| ?ter|[a-c])?,? (?i:{streets.ROMANCE})"
    r" (?:(?:de|du|des|la|le|les|d['’]|l['’])[ ]?){0,2}[A-ZÀ-Ý][\w'’-]{1,20}(?:[ -][A-ZÀ-Ý][\w'’-]{1,20}){0,3}"
    r"(?:,? \d{5} [A-ZÀ-Ý][\w'’-]{1,25})?"
)
_NAME = rf"(?:{streets.PARTICLES} |[dl]['’]){{0,3}}[A-ZÀ-ÝŁŚŻ][\w'’.-]{{0,25}}"
_TYPE_FIRST = re.compile(
    rf"(?<![\w'’])(?:(?P<sure>(?i:{streets.FIRST}))|(?P<unsure>(?i:{streets.FIRST_AT_TIMES})))[ ]"
    rf"{_NAME}(?: {_NAME}){{0,4}},?[ ]$"
)
_LAST_WORD = re.compile(r"(?:[A-ZÄÖÜÅÆØ][\wäöüß.’'-]{0,25}[ -]){0,3}(?P<word>[^\W\d_][\w-]{1,40}\.?) $")
_SAID_FIRST = re.compile(rf"(?<=[:=] )(?:{_NAME} ?){{1,4}},? $|(?<=\bis )(?:{_NAME} ?){{1,4}},? $")
_UNNUMBERED = re.compile(rf"(?<![\w'’])(?i:{streets.FIRST}) {_NAME}(?: {_NAME}){{0,2}}(?!\w)")
_FRENCH_OF = re.compile(r"(?:rue|boulevard|chemin|impasse|ruelle) d(?:e|u|es|e la) ")
_RUA_OF = re.compile(r"R\. d[ao]s? ")
_NO_NUMBER = re.compile(r"[sS]/[nN](?!\w)")
"""*Sem número*: the house has none."""
_BOX = re.compile(
    r"(?<!\w)(?i:p\. ?o\. ?box|po box|postfach|boîte postale|casella postale|apartado(?: de correos)?|postbus|postboks)"
    rf" \d{{1,6}}(?: \d\d){{0,2}}{_PLACE}"
)
_NUMBER = re.compile(
    r"\d(?:(?<![\w.,/$€£-]\d)(?:\d{0,4}(?:/\d{1,4})?"
    r"(?=(?: ?bis| ?ter|[a-zA-Z])?,? (?:[A-Z]|[rabpciqad]\w|\d{1,3}[a-z]{2} ))()"
    r"|(?<=[\w.,] \d)\d{0,3})|(?<=[A-Z]\d)(?<![A-Z]{3}\d)[A-Z\d]? \d[A-Z]{2}(?!\w)()())"
)
"""A house number with words behind it (one empty group), with a word before it (none); a postcode's end (three)."""
_UK_LINES = re.compile(
    r"(?:[A-Z\d][\w'’.-]{0,20}(?: {1,2}[\w'’.-]{1,20}){0,5},\s{1,3}){1,5}(?:[A-Z][\w'’-]{0,20} ){0,3}[A-Z]{1,2}$"
)
_TOWN_END = re.compile(r"\d(?<!\w\d)\d{4} [A-ZÀ-Ý][^\W\d_]{1,25}(?:[ -](?:[a-z]{2,3} )?[A-ZÀ-Ý][^\W\d_]{1,25})?")
_TOWN_LINES = re.compile(
    r"[A-ZÀ-Ý][\w'’.-]{0,25}(?:[ -][\w'’.-]{1,25}){0,5},? (?:\d{1,4} ?[a-z]?|s/n)(?:, [\w.º ]{1,15})?,\s{1,3}$"
)
"""What stands before a postcode: lines of an address of the United Kingdom, a street and a number elsewhere."""
_HOUSE = re.compile(
    rf"\d{{1,4}}(?:[-/]\d{{1,4}})? ?[a-zA-Z]?(?![\w/%-]|[.,]\d)(?P<more>(?: \d{{3}}(?=[,;\n)]|\.?$))?{_UNIT}?"
    r"(?:,? \d{4,5}(?: ?[A-Z]{2})? [A-ZÀ-Ý][\w'’-]{1,25})?)"
)
_OPENERS = (",", "\n", ";", "(", ":", "/", "|")
_YEAR = re.compile(r"(?:19|20)\d\d(?!\d)")
_SPOKEN = re.compile(r"[^\W\d_]+|[:=,\n]")
_CLOSED = re.compile(r" ?(?:[,;\n)/|]|\.?$)")


def numbered(text: str, marks: Marks) -> Spans:
    """A house number with a street, or what stands before a postcode, in the orders that countries use."""
    for town in near(_TOWN_END, text, marks, 5):
        yield from _behind_lines(text, _TOWN_LINES, town)
    numbers = list(_house_numbers(text, marks.digits))
    for number in numbers:
        if number.lastindex == _POSTCODE_GROUP:
            yield from _behind_lines(text, _UK_LINES, number)
    for number in numbers:
        at = number.start()
        found = (_english(text, at) or _romance(text, at)) if number.lastindex else None
        if found := found or _behind_street(text, at):
            yield found


def _house_numbers(text: str, digits: Sequence[int] | None) -> Iterator[re.Match[str]]:
    """What `_NUMBER` finds in a text; it only matches where digits begin."""
    if digits is None:
        yield from _NUMBER.finditer(text)
        return
    end = 0
    for at in digits:
        if at >= end and (found := _NUMBER.match(text, at)):
            end = found.end()
            yield found


def _behind_lines(text: str, lines: re.Pattern[str], code: re.Match[str]) -> Spans:
    """An address that ends in a postcode, with or without its town."""
    begin = lines.search(text[max(0, code.start() - _LINES_REACH) : code.start()])
    if begin:
        yield Span(code.start() - len(begin[0]), code.end())


def _english(text: str, at: int) -> Span | None:
    """A number, names and what the street is; of a year, or of a word that names much else, with a proof."""
    found = _ENGLISH.match(text, at)
    if found is None:
        return None
    flat = _FLAT.search(text[max(0, at - _FLAT_REACH) : at])
    start, end = at - len(flat[0]) if flat else at, found.end()
    is_year = _YEAR.match(text, at) is not None
    if found["road"] is not None and not is_year and not found["comma"]:
        return Span(start, end)
    if found["ground"] and not found["ground"][0].isupper():
        return None
    is_place = "," in found["place"] or any(map(str.isdigit, found["place"]))
    number = found[0].partition(" ")[0]
    is_apart = not found["plain"] and _is_apart(text, start, end)
    if flat or found["unit"] or is_place or is_apart or _is_told(text, start) or _is_of_flats(number):
        return Span(start, end)
    if found["comma"] and not found["road"]:
        return None
    is_plain = not is_year and not found["place"] and "/" not in number and not found[0].isupper()
    return Span(start, end) if is_plain and (_is_at(text, at) or _is_odd(found[0])) else None


def _is_of_flats(number: str) -> bool:
    """Whether it names a flat and a house (`4/128`), and is no day and no part of a whole."""
    parts = re.findall(r"\d+", number)
    if len(parts) == 1:
        return False
    return max(map(len, parts)) >= _LONG_NUMBER or number[0] == "0" or min(map(int, parts)) > _MONTHS


def _is_odd(address: str) -> bool:
    """Whether it counts so much, and so exactly, that it counts no things."""
    digits = address.split(" ", 1)[0]
    return len(digits) >= _LONG_NUMBER and not digits.endswith("00") and not address.endswith("s")


def _is_at(text: str, start: int) -> bool:
    """Whether a word such as `at` stands just before."""
    return not streets.AT.isdisjoint(_SPOKEN.findall(text[max(0, start - _AT_REACH) : start].lower())[-1:])


def _romance(text: str, at: int) -> Span | None:
    found = _ROMANCE.match(text, at)
    return Span(*found.span()) if found else None


def _behind_street(text: str, at: int) -> Span | None:
    """A house number behind the name of its street."""
    house = _HOUSE.match(text, at)
    if house is None:
        return None
    street, is_sure = _street_before(text[max(0, at - _REACH) : at])
    if not street:
        return None
    start = at - len(street)
    is_sure = is_sure and not _YEAR.match(text, at)
    is_apart = (street[1] != "." or _is_no_initial(street, house[0])) and _is_apart(text, start, house.end())
    if is_sure or house["more"] or is_apart or _is_where(text, start):
        return Span(start, house.end())
    return None


def _is_no_initial(street: str, house: str) -> bool:
    """Whether *R.* is a *rua*: behind it stand small words of Portuguese, or a number too high for anybody's years."""
    return _RUA_OF.match(street) is not None or len(re.findall(r"\d", house)) >= _LONG_NUMBER


def unnumbered(text: str, _marks: Marks) -> Spans:
    """Streets whose houses have none, and streets where somebody lives."""
    if "/N" in text or "/n" in text:
        for none in _NO_NUMBER.finditer(text):
            street, _ = _street_before(text[max(0, none.start() - _REACH) : none.start()])
            if street:
                yield Span(none.start() - len(street), none.end())
    if _names_a_street(text):
        for found in _UNNUMBERED.finditer(text):
            start, end = found.start(), found.end() - found[0].endswith(".")
            if _is_where(text, start) or _is_apart(text, start, end) or _FRENCH_OF.match(found[0]):
                yield Span(start, end)
    is_likely = "ox " in text or "BOX " in text or "ost" in text or "partado" in text
    if is_likely and _names_a_box(text.lower()):
        yield from (Span(*one.span()) for one in _BOX.finditer(text))


def _names_a_street(text: str) -> bool:
    """Whether such a name is worth looking for; written out, since every text is asked."""
    return (
        ("ue " in text and ("rue " in text or "Rue " in text or "venue " in text))
        or ("rua " in text or "Rua " in text or "alle " in text or "venida " in text or "hemin " in text)
        or ("ulevard " in text or "mpasse " in text or "iale " in text or "iazza " in text or "ulica " in text)
    )


def _names_a_box(low: str) -> bool:
    """Whether a text in small letters names a box of a post office."""
    is_post = "post" in low and ("fach " in low or "postale " in low or "postbus " in low or "postboks " in low)
    return is_post or "box " in low or "apartado" in low


def _street_before(before: str) -> tuple[str, bool]:
    """The name of a street that ends a text, and whether it can be little else."""
    spoken = before.lower().replace("(", " ").split()
    first = None if streets.FIRST_WORDS.isdisjoint(spoken) else _TYPE_FIRST.search(before)
    if first:
        kind = first["unsure"] or ""
        return first[0], not kind or (kind[0].isupper() and kind.lower() not in streets.ENGLISH_TOO)
    end = spoken[-1] if spoken else ""
    if end.endswith(streets.ENDS) and (last := _LAST_WORD.search(before)):
        return last[0], True
    if end.endswith(streets.ENDS_AT_TIMES) and (last := _LAST_WORD.search(before)) and _may_be_street(last[0]):
        return last[0], len(last[0]) > _LONG_NAME
    if end.endswith(streets.ENDS_SELDOM) and (last := _LAST_WORD.search(before)) and _may_be_street(last[0]):
        return last[0], False
    is_said = not streets.SAID.isdisjoint(spoken) and not _FLAT.search(before)
    said = _SAID_FIRST.search(before) if is_said else None
    if said and not streets.SAID.isdisjoint(_SPOKEN.findall(before[: said.start()].lower())[-3:]):
        return said[0], False
    return "", False


def _may_be_street(name: str) -> bool:
    *names, word = name.split()
    low = word.lower()
    if not word[0].isupper() or low in streets.NO_STREET or low.endswith(streets.NO_ENDS):
        return False
    return bool(names) or low not in streets.ENDS_AT_TIMES


def _is_where(text: str, start: int) -> bool:
    return _is_at(text, start) or _is_told(text, start)


def _is_told(text: str, start: int) -> bool:
    """Whether what stands before says that somebody lives, or wants something sent, where this begins."""
    spoken = _SPOKEN.findall(text[max(0, start - _CUE_REACH) : start].lower())[-_CUE_WORDS:]
    last = spoken[-1] if spoken else ""
    is_before = last in (":", "=") or last in streets.PREPOSITIONS or last in streets.CUES
    return is_before and not streets.CUES.isdisjoint(spoken)


def _is_apart(text: str, start: int, end: int) -> bool:
    """Whether it is a line of its own, or stands between commas."""
    before = text[max(0, start - 2) : start].rstrip(" ")
    return (start == 0 or before[-1:] in _OPENERS) and _CLOSED.match(text, end) is not None
