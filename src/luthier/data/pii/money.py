"""Numbers of cards and accounts: a shape proposes, the issuer's ranges and the checksum decide."""

from __future__ import annotations

import re

from luthier.data.pii.found import Areas, Span, Spans, near

_CARD = re.compile(r"\d(?<![\d.,-]\d)(?<!\d \d)\d{3}(?:[ -]?\d{1,6}){2,5}(?![\d-])")
_CARD_SHAPES = re.compile(
    r"4\d{12}(?:\d{3})?(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
    r"|(?:2131|1800)\d{11}|(?:50|5[6-9]|6\d)\d{10,17}"
)
"""Issuer ranges and lengths of ISO/IEC 7812 as the card schemes publish them."""
_IBAN = re.compile(r"\d\d(?<=[A-Za-z]{2}\d\d)(?<![A-Za-z0-9][A-Za-z]{2}\d\d)(?=[ -]?[A-Za-z0-9])")
"""Its check digits: two letters stand before them."""
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


def cards(text: str, areas: Areas) -> Spans:
    """Card numbers of 12 to 19 digits that pass Luhn, in one piece or in groups."""
    for found in near(_CARD, text, areas, 12):
        if is_card(found[0]):
            yield Span(*found.span())


def is_card(written: str) -> bool:
    """Whether a number has an issuer's range, its length and a right check digit."""
    digits = re.sub("[ -]", "", written)
    shape = 12 <= len(digits) <= 19 and _CARD_SHAPES.fullmatch(digits) is not None
    return shape and luhn(digits) and len(set(digits)) > 1


def luhn(digits: str) -> bool:
    """The check digit of card numbers."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def ibans(text: str, areas: Areas) -> Spans:
    """Account numbers with the country's length and right check digits."""
    for found in near(_IBAN, text, areas, 4):
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
