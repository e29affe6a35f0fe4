"""Numbers in answers: the one that is meant, its sign, thousands and decimals, and its unit."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, NamedTuple

Decimal = Literal["point", "comma"]
NumberPosition = Literal["last", "first"]

MARK = "####"
"""What stands before the answer in GSM8K."""
_SIGN = r"(?<![\w.])[-−+]?"
_SPACES = "\u00a0\u202f\u2009 "
_AMOUNT = {
    decimal: rf"{_SIGN}[$€£¥₹]?[-−]?(?:\d{{1,3}}(?:[{other}'’{_SPACES}]\d{{3}})+(?!\d)|\d+)?"
    rf"(?:[{point}]\d+|(?<=\d))(?:[eE][-+]?\d+)?"
    for decimal, point, other in (("point", ".", ","), ("comma", ",", "."))
}
_UNIT = r"\s?(?P<unit>°?[a-zA-Zµμ]+[²³23]?(?:/[a-zA-Z]+)?|[%‰])?"
_SCALES: dict[str, dict[str, str]] = {
    "length": {"mm": "1/1000", "cm": "1/100", "m": "1", "km": "1000", "in": "127/5000", "ft": "381/1250",
               "yd": "1143/1250", "mi": "201168/125"},
    "mass": {"mg": "1/1000000", "g": "1/1000", "kg": "1", "t": "1000", "lb": "45359237/100000000",
             "oz": "45359237/1600000000"},
    "time": {"ms": "1/1000", "s": "1", "min": "60", "h": "3600", "d": "86400"},
    "volume": {"ml": "1/1000", "cl": "1/100", "l": "1"},
    "area": {"cm²": "1/10000", "m²": "1", "ha": "10000", "km²": "1000000"},
    "share": {"%": "1/100", "‰": "1/1000"},
}  # fmt: skip
"""What each unit is in its family's base (exact; inch, pound and mile by international agreement of 1959)."""
_NAMES = {
    "millimetre": "mm", "centimetre": "cm", "metre": "m", "meter": "m", "kilometre": "km", "kilometer": "km",
    "inch": "in", "inches": "in", "foot": "ft", "feet": "ft", "yard": "yd", "mile": "mi", "gram": "g",
    "kilogram": "kg", "kilo": "kg", "tonne": "t", "pound": "lb", "lbs": "lb", "ounce": "oz", "sec": "s",
    "second": "s", "minute": "min", "mins": "min", "hour": "h", "hr": "h", "hrs": "h", "day": "d", "litre": "l",
    "liter": "l", "percent": "%", "m2": "m²", "km2": "km²", "cm2": "cm²", "hectare": "ha", "cent": "cents",
}  # fmt: skip
_FAMILY = {unit: (family, Fraction(scale)) for family, units in _SCALES.items() for unit, scale in units.items()}


_MOST = 1000
"""Digits that are read of a number, and the greatest power of ten: what is longer is nobody's answer."""
_DIGITS = 10
"""Of a power, with its sign."""


class Amount(NamedTuple):
    """A number and its unit."""

    value: Fraction
    unit: str
    """As it is written, in the singular where it is known; empty without one."""

    @property
    def family(self) -> str:
        """What the unit measures; the unit itself when it is unknown."""
        return _FAMILY.get(self.unit, (self.unit, Fraction(1)))[0]

    @property
    def in_base(self) -> Fraction:
        """The number in the base unit of its family."""
        return self.value * _FAMILY.get(self.unit, (self.unit, Fraction(1)))[1]


def extract_answer_number(text: str, *, decimal: Decimal = "point", position: NumberPosition = "last") -> Amount | None:
    """The number that a text answers with: what follows `####` when that stands there, else its last or first one."""
    if MARK in text:
        text, position = text.rpartition(MARK)[2], "first"
    matches = list(_pattern(decimal).finditer(text))
    if not matches:
        return None
    match = matches[-1 if position == "last" else 0]
    value = _plain(match["amount"], decimal)
    if match["below"] and (below := Fraction(match["below"][:_MOST])):
        value /= below
    return Amount(value, _unit(match["unit"] or ""))


def _pattern(decimal: Decimal) -> re.Pattern[str]:
    return re.compile(rf"(?P<amount>{_AMOUNT[decimal]})(?:/(?P<below>\d+))?{_UNIT}")


def _plain(text: str, decimal: Decimal) -> Fraction:
    """The number of a text with thousands separators, a sign or a currency before it."""
    normalized = text.replace("−", "-")
    mantissa, letter, exponent = re.match(r"([^eE]*)([eE]?)(.*)", normalized).groups()  # type: ignore[union-attr]  # fits all
    point = "." if decimal == "point" else ","
    whole, _, part = mantissa.partition(point)
    digits = re.sub(r"\D", "", whole)[:_MOST] or "0"
    sign = "-" if whole.strip().startswith("-") or "-" in whole else ""
    power = int(exponent[:_DIGITS]) if letter else 0
    return Fraction(f"{sign}{digits}.{part[:_MOST] or 0}") * Fraction(10) ** max(-_MOST, min(power, _MOST))


def _unit(word: str) -> str:
    unit = word if word in _FAMILY else word.lower()
    for form in (unit, unit.removesuffix("s")):
        if form in _FAMILY or form in _NAMES:
            return _NAMES.get(form, form)
    return unit.removesuffix("s")
