"""Postal addresses: by what streets are called, and by the lines that stand before a postcode."""

from __future__ import annotations

import re

from luthier.text.pii.found import Areas, Span, Spans, near

_REACH = 60
_LINES_REACH = 110
_POSTCODE_GROUP = 3
_TYPE_AFTER = (
    r"(?:street|st|avenue|ave|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|place|pl|square|sq|terrace|way|parkway|pkwy"
    r"|circle|cir|highway|hwy|close|crescent|gardens|grove|mews|row|trail|alley|plaza|loop|ridge|crossing|walk|hill)"
)
_SUFFIXES = """
alley arcade bayou beach bend bluff boulevard bridge brook burg bypass canyon cape causeway circle cliff
common corner course court cove creek crescent crest crossing crossroad curve dale dam estate expressway fall
ferry field ford forest forge fork fort freeway garden gateway glen green grove harbor haven height heights
highway hill hollow inlet island isle junction knoll lake landing lane lock lodge loop mall manor meadow mews
mill motorway mount mountain neck orchard oval overpass park parkway passage path pike pine plain plaza port
prairie radial ramp ranch rapid ridge river road route row rue run shoal shore skyway spring spur square
station stravenue stream street summit terrace throughway trace trafficway trail tunnel turnpike underpass
valley via viaduct village ville vista walk way
"""
"""Suffixes of Publication 28 of the United States Postal Service, without those that name much else."""
_TYPE_WRITTEN = "(?:" + "|".join(f"{word.capitalize()}s?" for word in sorted(_SUFFIXES.split())) + ")"
_UNIT = r"(?:,? (?i:apt|apartment|suite|unit|flat|floor|fl|ste|#)\.? ?[\w-]{1,6})?"
_TOWN = r"[A-Z][^\W\d_]{0,25}(?:[ '’.-]{1,2}[A-Z][^\W\d_]{0,25}){0,2}"
_UK_CODE = r"[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}"
_POSTCODE = rf"(?:[A-Z]{{2}} )?\d{{4,5}}(?:-\d{{4}})?|{_UK_CODE}|[A-Z]\d[A-Z] ?\d[A-Z]\d"
_PLACE = rf"(?:,? (?:{_POSTCODE})(?!\w)|,? {_TOWN}(?![\w])){{0,4}}"
_ENGLISH = re.compile(
    rf"\d(?<![\w.,/$€£-]\d)\d{{0,4}}[A-Za-z]? (?:[NSEW]\.? )?"
    rf"(?:(?:[A-Z][\w'’-]{{0,20}}|\d{{1,3}}(?:st|nd|rd|th)) ){{1,4}}"
    rf"(?:(?i:{_TYPE_AFTER})|{_TYPE_WRITTEN})\b\.?{_UNIT}{_PLACE}"
)
_ROMANCE = re.compile(
    r"\d(?<![\w.,/-]\d)\d{0,3}(?: ?bis| ?ter|[a-c])?,? "
    r"(?i:rue|avenue|av\.|boulevard|bd|place|chemin|impasse|allée|quai|cours|route)"
    r" (?:(?:de|du|des|la|le|les|d['’]|l['’])[ ]?){0,2}[A-ZÀ-Ý][\w'’-]{1,20}(?:[ -][A-ZÀ-Ý][\w'’-]{1,20}){0,3}"
    r"(?:,? \d{5} [A-ZÀ-Ý][\w'’-]{1,25})?"
)
_STREET_FIRST = re.compile(
    r"(?:[A-ZÄÖÜ][\wäöüß.-]{0,25}[ -]){0,2}[A-ZÄÖÜ]?[\wäöüß-]{0,25}"
    r"(?i:straße|strasse|str\.|weg|platz|allee|gasse|ring|damm|ufer|straat|laan|plein|gracht|gatan|vägen|gade|vej)[ ]$"
    r"|\b(?:Calle|C/|Avenida|Avda\.?|Plaza|Paseo|Via|Viale|Piazza|Corso|Rua|Praça|ul\.|ulica|al\.|aleja|Rue|Avenue)[ ]"
    r"(?:(?:de|del|della|dei|da|do|la|las|los|el)[ ]){0,2}(?:[A-ZÀ-ÝŁŚŻ][\w'’.-]{1,20}[ ]?){1,4},?[ ]?$",
)
_STREET_ENDS = tuple(
    f"{end} "
    for end in (
        *("straße", "strasse", "str.", "weg", "platz", "allee", "gasse", "ring", "damm", "ufer", "straat", "laan"),
        *("plein", "gracht", "gatan", "vägen", "gade", "vej"),
    )
)
_NUMBER = re.compile(
    r"\d(?:(?<![\w.,/$€£-]\d)(?:\d{0,4}(?=(?: ?bis| ?ter|[a-zA-Z])?,? (?:[A-Z]|[rabpciqad]\w|\d{1,3}[a-z]{2} ))()"
    r"|(?<=[\w.,] \d)\d{0,3})|(?<=[A-Z]\d)(?<![A-Z]{3}\d)[A-Z\d]? \d[A-Z]{2}(?!\w)()())"
)
"""A house number with words behind it (one empty group), with a word before it (none); a postcode's end (three)."""
_STREET_BEGINS = ("Calle ", "C/ ", "Avenida", "Avda", "Plaza ", "Paseo ", "Via ", "Viale ", "Piazza ", "Corso ", "Rua ",
                  "Praça ", "ul. ", "ulica ", "al. ", "aleja ")  # fmt: skip
_UK_LINES = re.compile(
    r"(?:[A-Z\d][\w'’.-]{0,20}(?: {1,2}[\w'’.-]{1,20}){0,5},\s{1,3}){1,5}(?:[A-Z][\w'’-]{0,20} ){0,3}[A-Z]{1,2}$"
)
_TOWN_END = re.compile(r"\d(?<!\w\d)\d{4} [A-ZÀ-Ý][^\W\d_]{1,25}(?:[ -](?:[a-z]{2,3} )?[A-ZÀ-Ý][^\W\d_]{1,25})?")
_TOWN_LINES = re.compile(
    r"[A-ZÀ-Ý][\w'’.-]{0,25}(?:[ -][\w'’.-]{1,25}){0,5},? (?:\d{1,4} ?[a-z]?|s/n)(?:, [\w.º ]{1,15})?,\s{1,3}$"
)
"""What stands before a postcode: lines of an address of the United Kingdom, a street and a number elsewhere."""
_HOUSE = re.compile(
    r"\d{1,4}(?:[-/]\d{1,4})? ?[a-zA-Z]?(?![\w/-]|[.,]\d)(?:,? \d{4,5}(?: ?[A-Z]{2})? [A-ZÀ-Ý][\w'’-]{1,25})?"
)


def addresses(text: str, areas: Areas) -> Spans:
    """A house number with a street, or what stands before a postcode, in the orders that countries use."""
    for town in near(_TOWN_END, text, areas, 5):
        yield from _behind_lines(text, _TOWN_LINES, town)
    numbers = list(_NUMBER.finditer(text))
    for number in numbers:
        if number.lastindex == _POSTCODE_GROUP:
            yield from _behind_lines(text, _UK_LINES, number)
    for number in numbers:
        at = number.start()
        if number.lastindex and (found := _ENGLISH.match(text, at) or _ROMANCE.match(text, at)):
            yield Span(*found.span())
        else:
            yield from _behind_street(text, at)


def _behind_lines(text: str, lines: re.Pattern[str], code: re.Match[str]) -> Spans:
    """An address that ends in a postcode, with or without its town."""
    begin = lines.search(text[max(0, code.start() - _LINES_REACH) : code.start()])
    if begin:
        yield Span(code.start() - len(begin[0]), code.end())


def _behind_street(text: str, at: int) -> Spans:
    """A house number behind the name of its street."""
    before = text[max(0, at - _REACH) : at]
    if not (before.lower().endswith(_STREET_ENDS) or any(word in before for word in _STREET_BEGINS)):
        return
    street = _STREET_FIRST.search(before)
    house = _HOUSE.match(text, at) if street else None
    if street and house:
        yield Span(at - len(street[0]), house.end())
