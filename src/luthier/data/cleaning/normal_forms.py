"""Dates, times, numbers and units in one written form each; what could mean two things is left alone and counted.

Dates become ISO 8601 (`2025-02-03`), times of day `15:30`, numbers digits with a decimal point (`1234.5`), and units
their symbol behind a space (`5 kg`). Every pattern looks at a bounded stretch from where it starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Literal, NamedTuple

DateOrder = Literal["unknown", "day_first", "month_first"]
Decimal = Literal["unknown", "point", "comma"]


class NormalizedText(NamedTuple):
    """A text with normal forms, and what was left because it could mean two things."""

    text: str
    ambiguous: int


_MONTHS = (
    "january jan januar jänner janvier janv enero ene gennaio gen janeiro januari",
    "february feb februar février févr febrero febbraio fevereiro fev februari",
    "march mar märz mär mars marzo março maart mrt",
    "april apr avril avr abril abr aprile",
    "may mai mayo maggio mag maio mei",
    "june jun juni juin junio giugno giu junho",
    "july jul juli juillet juil julio luglio lug julho",
    "august aug août agosto ago augustus",
    "september sep sept septembre septiembre settembre set setembro",
    "october oct oktober okt octobre octubre ottobre ott outubro out",
    "november nov novembre noviembre novembro",
    "december dec dezember dez décembre déc diciembre dic dicembre dezembro",
)
_MONTH = {name: number for number, names in enumerate(_MONTHS, start=1) for name in names.split()}
_FIRST_YEAR, _LAST_YEAR = 1900, 2100

_NUMERIC_DATE = re.compile(r"(?<![\w./-])(\d{1,4})([./-])(\d{1,2})\2(\d{1,4})(?!\w|[./-]\d)")
_DAY_MONTH = re.compile(
    r"(?<![\w.,:/-])(\d{1,2})(?:st|nd|rd|th|er|º|\.)?[ \u00a0](?:of |de )?([^\W\d_]{3,12})\.?,?"
    r"[ \u00a0](?:de |del )?(\d{4})(?!\w)"
)
_MONTH_DAY = re.compile(r"(?<!\w)([^\W\d_]{3,12})\.?[ \u00a0](\d{1,2})(?:st|nd|rd|th)?,?[ \u00a0](\d{4})(?!\w)")
_TIME = re.compile(r"(?<![\w:.,-])(\d{1,2})(?:[:.](\d{2}))?[ \u00a0]?([ap])(?:\.m\.|m)(?!\w)", re.IGNORECASE)
_SHARED = re.compile(
    r"(?<![\w:.,/-])\d{1,2}(?:[:.]\d\d)?"
    r"(?:\s?[-–—/&,]\s?|\s(?:to|and|or|until|till|through|bis|und|oder|a|y|o|à|et|ou)\s)\Z"
)
"""What stands before the second of two times that share one `pm`: `1 to`."""
_SHARED_CHARS = 24
_AM_ALONE = re.compile(r"\d{1,2}[ \u00a0]am")
_AM_IS_A_WORD = ("de", "ro")
_SHORTEST_TOLD = 12
"""No language is told of a shorter text."""
_GROUPED = re.compile(
    r"(?<![\w.,'’/:+#-])\d{1,3}(?:[.,'’\u00a0\u2009\u202f]\d{3}){1,8}(?:[.,]\d{1,10})?(?!\w|[.,'’/:-]\d)"
)
_SHORT_COMMA = re.compile(r"(?<![\w.,'’/:+#-])(\d{1,12}),(\d{1,2}|\d{4,10})(?!\w|[.,/:-]\d)")
_SEPARATOR = re.compile(r"[^\d]")
_UNITS = {
    "kg": "kg kgs kilo kilos kilogram kilograms kilogramme kilogrammes kilogramm kilogramo kilogramos chilogrammo "
    "chilogrammi quilo quilos quilograma quilogramas",
    "g": "gram grams gramme grammes gramm gramo gramos grammo grammi grama gramas",
    "mg": "mg milligram milligrams milligramme milligrammes milligramm miligramo miligramos milligrammi",
    "km": "km kms kilometre kilometres kilometer kilometers kilomètre kilomètres kilómetro kilómetros chilometri",
    "m": "metre metres meter meters mètre mètres metro metros metri",
    "cm": "cm cms centimetre centimetres centimeter centimeters zentimeter centimètre centimètres centímetro "
    "centímetros centimetri",
    "mm": "mm millimetre millimetres millimeter millimeters millimètre millimètres milímetro milímetros millimetri",
    "L": "litre litres liter liters litro litros litri",
    "mL": "ml millilitre millilitres milliliter milliliters mililitro mililitros millilitri",
    "%": "percent prozent procent",
    "kB": "kB KB kilobyte kilobytes",
    "MB": "MB megabyte megabytes",
    "GB": "GB gigabyte gigabytes",
    "TB": "TB terabyte terabytes",
    "kWh": "kWh",
    "°C": "°C",
    "°F": "°F",
}
_SYMBOL = {word: symbol for symbol, words in _UNITS.items() for word in words.split()}
_LONGEST_SYMBOL = 3
_UNIT = re.compile(r"(?<![\w.,'’/:-])(\d{1,12}(?:[.,]\d{1,6})?)[ \u00a0]?(°?[^\W\d_]{1,14})(?!\w)")


def normalize_dates(text: str, order: DateOrder = "unknown") -> NormalizedText:
    """Dates as ISO 8601; `3/4/2025` needs an order, years of two digits are never guessed at."""
    ambiguous = 0

    def numeric(found: re.Match[str]) -> str:
        nonlocal ambiguous
        one, sign, two, three = found[1], found[2], found[3], found[4]
        if len(one) == 4:
            return (_iso(one, two, three) or found[0]) if len(three) <= 2 else found[0]
        if len(one) > 2 or len(three) in (1, 3):
            return found[0]
        if len(three) == 2:
            ambiguous += _iso("2000", two, one) is not None or _iso("2000", one, two) is not None
            return found[0]
        days = [_iso(three, two, one), _iso(three, one, two)]
        if sign == "." or order == "day_first":
            return days[0] or found[0]
        if order == "month_first":
            return days[1] or found[0]
        possible = {day for day in days if day}
        ambiguous += len(possible) > 1
        return possible.pop() if len(possible) == 1 else found[0]

    text = _NUMERIC_DATE.sub(numeric, text)
    text = _DAY_MONTH.sub(lambda found: _worded(found[3], found[2], found[1]) or found[0], text)
    text = _MONTH_DAY.sub(lambda found: _worded(found[3], found[1], found[2]) or found[0], text)
    return NormalizedText(text, ambiguous)


def _worded(year: str, month: str, day: str) -> str | None:
    number = _MONTH.get(month.casefold())
    return _iso(year, str(number), day) if number else None


def _iso(year: str, month: str, day: str) -> str | None:
    if not _FIRST_YEAR <= int(year) < _LAST_YEAR:
        return None
    try:
        return date(int(year), int(month), int(day)).isoformat()
    except ValueError:
        return None


def normalize_times(text: str) -> NormalizedText:
    """Times of day on 24 hours: `3:30 pm` is `15:30`.

    `from 1 to 4 pm` is left and counted, since the first may be of either half of the day; `9 am` is left where `am` is
    a word of the language (German, Romanian).
    """
    ambiguous = 0

    def form(found: re.Match[str]) -> str:
        nonlocal ambiguous
        hour, minute = int(found[1]), int(found[2] or 0)
        if not 1 <= hour <= 12 or minute > 59:
            return found[0]
        if _SHARED.search(text, max(0, found.start() - _SHARED_CHARS), found.start()):
            ambiguous += 1
            return found[0]
        if _AM_ALONE.fullmatch(found[0]) and _is_a_word_there(text):
            return found[0]
        return f"{hour % 12 + (12 if found[3].lower() == 'p' else 0):02}:{minute:02}"

    return NormalizedText(_TIME.sub(form, text), ambiguous)


@lru_cache(maxsize=1)
def _is_a_word_there(text: str) -> bool:
    """Whether a text is of a language in which `am` is a word of every second sentence."""
    from luthier.lang.detect import identify_languages

    return identify_languages([text], min_chars=_SHORTEST_TOLD, among=("en", *_AM_IS_A_WORD))[0].code in _AM_IS_A_WORD


def normalize_numbers(text: str, decimal: Decimal = "unknown") -> NormalizedText:
    """Numbers without marks between thousands, with a decimal point; `1.234` and `1,5` need `decimal`."""
    ambiguous = 0

    def grouped(found: re.Match[str]) -> str:
        nonlocal ambiguous
        marks = _SEPARATOR.findall(found[0])
        *groups, last = _SEPARATOR.split(found[0])
        if len(set(marks[:-1])) > 1 or (marks[0] == "." and len(marks) == 3 and set(marks) == {"."}):
            return found[0]  # no number, or an address
        if len(marks) > 1 and marks[-1] != marks[0]:
            return "".join(groups) + "." + last if marks[-1] in ".," else found[0]
        if len(last) != 3:
            return found[0]
        if len(marks) == 1 and marks[0] in ".,":
            if decimal == "unknown":
                ambiguous += 1
                return found[0]
            is_decimal = (marks[0] == ",") == (decimal == "comma")
            return f"{groups[0]}.{last}" if is_decimal else groups[0] + last
        return "".join([*groups, last])

    def short(found: re.Match[str]) -> str:
        nonlocal ambiguous
        if decimal == "comma":
            return f"{found[1]}.{found[2]}"
        ambiguous += decimal == "unknown"
        return found[0]

    return NormalizedText(_SHORT_COMMA.sub(short, _GROUPED.sub(grouped, text)), ambiguous)


def normalize_units(text: str) -> NormalizedText:
    """Units of mass, length, volume, temperature, share and data as symbols."""

    def form(found: re.Match[str]) -> str:
        word = found[2] if len(found[2]) <= _LONGEST_SYMBOL else found[2].casefold()  # GB is no Gb
        symbol = _SYMBOL.get(word)
        if word == "metro" and not found[1].startswith(("0", "1")):
            return found[0]  # two of them are metros: "2 metro stations"
        return f"{found[1]} {symbol}" if symbol else found[0]

    return NormalizedText(_UNIT.sub(form, text), 0)


def apply_until_stable(text: str, passes: list[Callable[[str], NormalizedText]]) -> NormalizedText:
    """Take a text through passes until nothing changes."""
    ambiguous = 0
    for _ in range(_ROUNDS):
        before, ambiguous = text, 0
        for pass_ in passes:
            text, left = pass_(text)
            ambiguous += left
        if text == before:
            break
    return NormalizedText(text, ambiguous)


_ROUNDS = 6
