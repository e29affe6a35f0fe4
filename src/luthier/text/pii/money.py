"""Numbers of cards and accounts: a shape proposes, the issuer's ranges and the checksum decide."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.text.pii import words
from luthier.text.pii.found import Marks, Span, Spans, near, small_words

_CARD = re.compile(r"\d(?<![\w.,-]\d)\d{0,18}(?:[ -]\d{1,19}){0,7}(?![\d-])")
_FEWEST = 12
"""Digits of a card's number."""
_GROUP = re.compile(r"\d+")
_FEWEST_ALONE = 13
"""Those of one that stands in one piece between other digits."""
_PRINTED = ((4, 6, 5), (4, 6, 4), (4, 4, 4, 4), (4, 4, 4, 4, 3))
"""How numbers are printed on cards; other digits may stand before and behind such groups."""
_CARD_SHAPES = re.compile(
    r"4\d{12}(?:\d{3})?(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}|62\d{14,17}"
    r"|(?:2131|1800)\d{11}|(?:50|5[6-9]|6\d)\d{10,17}"
)
"""Issuer ranges and lengths of ISO/IEC 7812 as the card schemes publish them."""
_WORD = re.compile(r"\w+")
_IBAN = re.compile(r"\d\d(?<=[A-Za-z]{2}\d\d)(?<![A-Za-z0-9][A-Za-z]{2}\d\d)(?=[ -]?[A-Za-z0-9])")
"""Its check digits: two letters stand before them."""
IBAN_BEGINS = 4
"""So many characters, without white space."""
_IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU", 31: "MT SC", 32: "LC",
    }.items()
    for code in codes.split()
}  # fmt: skip
"""Lengths by country, from the SWIFT IBAN registry."""


def cards(text: str, marks: Marks) -> Spans:
    """Card numbers of 12 to 19 digits that pass Luhn, in one piece or in groups."""
    for found in near(_CARD, text, marks, _FEWEST):
        written = found[0]
        if len(written) - written.count(" ") - written.count("-") < _FEWEST:
            continue
        for start, end in _candidates(text, found.start(), found.end()):
            number = text[start:end]
            if is_card(number) and (_is_scheme(number) or not _is_other(text, start)):
                yield Span(start, end)


def _candidates(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The whole stretch of digits, then parts of it that are printed like a card's number."""
    yield start, end
    groups = [group.span() for group in _GROUP.finditer(text, start, end)]
    lengths = tuple(stop - begin for begin, stop in groups)
    for first, (begin, stop) in enumerate(groups if len(groups) > 1 else ()):
        if stop - begin >= _FEWEST_ALONE:
            yield begin, stop
        for shape in _PRINTED:
            if len(shape) < len(groups) and lengths[first : first + len(shape)] == shape:
                yield begin, groups[first + len(shape) - 1][1]


def is_card(written: str) -> bool:
    """Whether a number has an issuer's range, its length and a right check digit."""
    digits = re.sub("[ -]", "", written)
    shape = _FEWEST <= len(digits) <= 19 and _CARD_SHAPES.fullmatch(digits) is not None
    return shape and luhn(digits) and len(set(digits)) > 1


def _is_scheme(written: str) -> bool:
    """Whether length and range are those of a scheme other than Maestro, whose short numbers many others look like."""
    digits = re.sub("[ -]", "", written)
    return len(digits) >= 16 or digits[0] in "34"


def _is_other(text: str, start: int) -> bool:
    """Whether a word just before says that it is the number of an order, a parcel or the like."""
    spoken = _WORD.findall(small_words(text[max(0, start - 40) : start]))[-4:]
    return not (words.OTHER_NUMBER | words.OTHER_THAN_PHONE).isdisjoint(spoken)


def luhn(digits: str) -> bool:
    """The check digit of card numbers."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def ibans(text: str, marks: Marks) -> Spans:
    """Account numbers with the country's length and right check digits."""
    for found in near(_IBAN, text, marks, 4):
        start = found.start() - 2
        length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
        if length is None:
            continue
        end, compact = start, ""
        while end < len(text) and len(compact) < length and (text[end].isalnum() or text[end] in " -\u00a0"):
            compact += text[end] if text[end].isalnum() else ""
            end += 1
        if not text[end : end + 1].isalnum() and iban_is_valid(compact.upper()):
            yield Span(start, end)


def iban_is_valid(compact: str) -> bool:
    """Country, length and modulo 97 of an IBAN without spaces."""
    if len(compact) != _IBAN_LENGTHS.get(compact[:2]) or not (compact.isascii() and compact.isalnum()):
        return False
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1
