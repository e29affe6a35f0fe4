"""Personal data by patterns that run in linear time, each checked further where a check exists.

Every pattern begins at a place where its first character cannot continue a longer run, and every repetition is
bounded, so that no text makes the search slow. What a pattern proposes, a check confirms: Luhn for cards, modulo 97
and the country's length for IBANs, valid areas for social security numbers, shape and context for phone numbers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

PiiKind = Literal["url_secret", "secret", "email", "iban", "card", "ssn", "mac", "ip", "phone"]
KINDS: tuple[PiiKind, ...] = get_args(PiiKind)
"""All kinds; where two claim the same text, the earlier one has it."""


class Found(NamedTuple):
    """A piece of personal data in a text."""

    start: int
    end: int
    kind: PiiKind
    text: str


def find(text: str, kinds: tuple[PiiKind, ...] = KINDS) -> list[Found]:
    """Everything of these kinds in a text, in order, without overlaps."""
    if not _WORTH_A_LOOK.search(text):
        return []
    taken: list[Found] = []
    for kind in KINDS:
        if kind in kinds:
            for start, end in _FINDERS[kind](text):
                if not any(start < other.end and other.start < end for other in taken):
                    taken.append(Found(start, end, kind, text[start:end]))
    return sorted(taken)


_WORTH_A_LOOK = re.compile(
    r"@|\d[^\n]{0,3}\d|://|[A-Za-z0-9_]{16}|::|passw|secret|token|key|contrase|passe", re.IGNORECASE
)

# Secrets: documented beginnings of keys and tokens of common providers, JSON web tokens, private keys.
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-[A-Za-z0-9_-]{20,200}|gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_[A-Za-z0-9_]{20,255}|glpat-[A-Za-z0-9_-]{20,64}"
    r"|AKIA[A-Z0-9]{16}|ASIA[A-Z0-9]{16}|xox[abeoprs]-[A-Za-z0-9-]{10,250}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,60}"
    r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,120}|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}"
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"
    r")(?![A-Za-z0-9])"
)
_SECRET_BEGINNINGS = ("sk-", "gh", "glpat-", "AKIA", "ASIA", "xox", "AIza", "hf_", "_live_", "_test_", "SG.", "eyJ")
_SECRET_WORD = re.compile("[kstpc](?:ey|ecret|oken|assw|ontrase|asse)", re.IGNORECASE)
_SECRET_SAID = re.compile(
    r"(?<![A-Za-z])(?:api[ _-]?key|secret|token|password|passwort|contraseña|mot de passe)"
    r"\s{0,3}(?:is|ist|es|=|:)\s{0,3}['\"]?([^\s'\",;]{6,200})",
    re.IGNORECASE,
)
_PRIVATE_KEY = "-----BEGIN "
_URL_SECRET = re.compile(
    r"(?<![A-Za-z0-9+.-])[a-z][a-z0-9+.-]{1,15}://[^\s/:@<>\"']{1,100}:[^\s/@<>\"']{1,200}@[^\s<>\"']{1,300}", re.I
)
_URL_TOKEN = re.compile(
    r"(?<=[?&])(?:access_token|token|api_?key|key|secret|password|pwd|sig|signature)=([^\s&#<>\"']{6,500})", re.I
)
_EMAIL_HOST = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])")
_LOCAL_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'")
_IBAN = re.compile(r"\d\d(?<=[A-Za-z]{2}\d\d)(?<![A-Za-z0-9][A-Za-z]{2}\d\d)(?=[ -]?[A-Za-z0-9])")
"""Its check digits: two letters stand before them."""
_CARD = re.compile(r"\d(?<![\d.,-]\d)(?<!\d \d)\d{3}(?:[ -]?\d{1,6}){2,5}(?![\d-])")
_SSN = re.compile(r"\d(?<![\d-]\d)(?<!9)\d\d(?<!000)(?<!666)-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_MAC = re.compile(
    r"(?<![0-9A-Fa-f:-])(?=[0-9:-]{0,16}[A-Fa-f])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:-])"
)
_IPV4 = re.compile(r"\d(?<![\d.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\d|\.\d)")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{3,39}(?![0-9A-Za-z:])")
_VERSION_BEFORE = re.compile(
    r"\bv$|\b(?:version|release|build|firmware|ver)\b[ .:]{0,2}"
    r"(?:(?:of|is|on|in|the|my|your|now|at|sensors?|device|router|app) ){0,5}$",
    re.IGNORECASE,
)
_PHONE = re.compile(
    r"[+(\d](?<![\w+@#/.-][+(\d])[\d ().\-/\u00a0\u2011]{5,25}\d(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?(?![\w@])",
    re.IGNORECASE,
)
_EXTENSION = re.compile(r"[ ]?(?:x|ext\.?)[ ]?\d{1,6}$", re.IGNORECASE)
_PHONE_WORD = (
    r"(?:tele)?phone|tel|mobile|cell(?:phone)?|whatsapp|fax|telefon\w{0,10}|handy\w{0,8}|tel[ée]fono|m[óo]vil"
    r"|t[ée]l[ée]phone|portable"
)
_PHONE_NAMED = re.compile(rf"\b(?:{_PHONE_WORD})\b\W{{0,3}}(?:\w{{1,10}}\W{{1,3}}){{0,2}}$", re.IGNORECASE)
"""A telephone's name just before: even bare digits are a number to call."""
_PHONE_CALLED = re.compile(
    r"\b(?:call|ring|text|reach|contact|anruf\w{0,4}|erreich\w{0,4}|ll[aá]m\w{0,6}|appel\w{0,4})\b\W{1,3}(?:\w{1,10}\W{1,3}){0,3}$",
    re.IGNORECASE,
)
"""Somebody is to be called: digits in groups are a number."""
_PHONE_AFTER = re.compile(r"\W{0,3}(?:office|fax|mobile|cell|home|work|phone)\b", re.IGNORECASE)
_CARRIER = re.compile(r"\b[A-Z]{2} $")
"""Two capitals stand before numbers of parcels and letters."""
_NOT_A_PHONE = re.compile(
    r"\b(?:order|bestell\w{0,8}|auftrag\w{0,10}|pedido|commande|invoice|rechnung\w{0,10}|factura|ticket|licen[sc]e|account|konto\w{0,8}|"
    r"reference|ref|case|tracking|parcel|serial|article|artikel\w{0,8}|purchase|item|sku)\b\W{0,3}(?:\w{1,10}\W{1,3}){0,3}$",
    re.IGNORECASE,
)
"""Words for other numbers; only an international prefix outweighs them."""
_ABROAD = re.compile(r"00[1-9]")
"""The international prefix before a country code, none of which begins with 0."""
_NANP = re.compile(r"(?:1[ .-]?)?(?:\(\d{3}\) ?|[2-9]\d\d[ .-])\d{3}[ .-]\d{4}")
_DATE = re.compile(r"\d{1,2}([./-])\d{1,2}\1(?:\d{4}|\d{2})|\d{4}([./-])\d{1,2}\2\d{1,2}")

_CARD_SHAPES = re.compile(
    r"4\d{12}(?:\d{3})?(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}|(?:50|5[6-9]|6\d)\d{10,17}"
)
"""Issuer ranges and lengths of ISO/IEC 7812 as the card schemes publish them."""

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


def luhn(digits: str) -> bool:
    """The check digit of card numbers."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban_is_valid(compact: str) -> bool:
    """Country, length and modulo 97 of an IBAN without spaces."""
    if len(compact) != _IBAN_LENGTHS.get(compact[:2]) or not (compact.isascii() and compact.isalnum()):
        return False
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


Spans = Iterator[tuple[int, int]]


def _secrets(text: str) -> Spans:
    if any(beginning in text for beginning in _SECRET_BEGINNINGS):
        yield from (found.span() for found in _SECRET.finditer(text))
    if _SECRET_WORD.search(text):
        yield from (found.span(1) for found in _SECRET_SAID.finditer(text) if _looks_random(found[1]))
    at = text.find(_PRIVATE_KEY)
    while at >= 0:
        end = text.find("-----END ", at)
        close = text.find("-----", end + 9) if end >= 0 else -1
        if close < 0:
            return
        yield at, close + 5
        at = text.find(_PRIVATE_KEY, close)


def _looks_random(text: str) -> bool:
    """Letters and digits mixed: a password or key rather than a word."""
    return any(char.isdigit() for char in text) and any(char.isalpha() for char in text)


def _url_secrets(text: str) -> Spans:
    if "://" in text and "@" in text:
        yield from (found.span() for found in _URL_SECRET.finditer(text))
    if "=" in text:
        yield from (found.span(1) for found in _URL_TOKEN.finditer(text))


def _emails(text: str) -> Spans:
    """From each @ to the left as far as a local part reaches (64 characters), to the right as far as a host does."""
    at = text.find("@")
    while at >= 0:
        start = at
        while (
            start > 0
            and at - start < 64
            and (text[start - 1] in _LOCAL_CHARS or (text[start - 1] > "\x7f" and text[start - 1].isalnum()))
        ):
            start -= 1
        while start < at and text[start] in ".-'%+":
            start += 1
        host = _EMAIL_HOST.match(text, at + 1)
        if start < at and host:
            yield start, host.end()
        at = text.find("@", at + 1)


def _ibans(text: str) -> Spans:
    for found in _IBAN.finditer(text):
        start = found.start() - 2
        length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
        if length is None:
            continue
        end, compact = start, ""
        while end < len(text) and len(compact) < length and (text[end].isalnum() or text[end] in " -"):
            compact += text[end] if text[end].isalnum() else ""
            end += 1
        if not text[end : end + 1].isalnum() and iban_is_valid(compact.upper()):
            yield start, end


def _cards(text: str) -> Spans:
    for found in _CARD.finditer(text):
        digits = re.sub("[ -]", "", found[0])
        if 12 <= len(digits) <= 19 and _CARD_SHAPES.fullmatch(digits) and luhn(digits) and len(set(digits)) > 1:
            yield found.span()


def _ssns(text: str) -> Spans:
    if text.count("-") >= 2:
        yield from (found.span() for found in _SSN.finditer(text))


def _macs(text: str) -> Spans:
    if text.count(":") >= 5 or text.count("-") >= 5:
        yield from (found.span() for found in _MAC.finditer(text))


def _ips(text: str) -> Spans:
    if text.count(".") >= 3:
        for found in _IPV4.finditer(text):
            before = text[max(0, found.start() - 50) : found.start()]
            if _is_ip(found[0]) and not _VERSION_BEFORE.search(before):
                yield found.span()
    if text.count(":") >= 2:
        for found in _IPV6.finditer(text):
            if len(found[0]) > 4 and _is_ip(found[0]):
                yield found.span()


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _phones(text: str) -> Spans:
    for found in _PHONE.finditer(text):
        start = found.start()
        written = found[0].rstrip(" (.-/")
        if written.startswith("(") and ")" not in written:
            start, written = start + 1, written[1:]
        end = start + len(written)
        number = _EXTENSION.sub("", written)
        if _is_phone(number, text[max(0, start - 50) : start], text[end : end + 12]):
            yield start, end


def _is_phone(written: str, before: str, after: str) -> bool:
    if _is_something_else(written) or _CARRIER.search(before):
        return False
    digits = re.sub(r"\D", "", written)
    if written.startswith("+") or _ABROAD.match(written):
        return (8 if written.startswith("+") else 11) <= len(digits) <= 15
    if _NOT_A_PHONE.search(before):
        return False
    if _NANP.fullmatch(written):
        return True
    groups = len(re.findall(r"\d+", written))
    if _PHONE_NAMED.search(before) or _PHONE_AFTER.match(after) or (groups > 1 and _PHONE_CALLED.search(before)):
        return 7 <= len(digits) <= 13
    return digits[0] == "0" and digits[1] != "0" and 9 <= len(digits) <= 12 and 2 <= groups <= 6


def _is_something_else(written: str) -> bool:
    """A date, a sum, or brackets that do not pair."""
    is_opened = written[0] in "+(" and not written[1].isdigit()
    return is_opened or _DATE.match(written) is not None or written.count("(") != written.count(")")


_FINDERS: dict[PiiKind, Callable[[str], Spans]] = {
    "secret": _secrets,
    "url_secret": _url_secrets,
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ssn": _ssns,
    "mac": _macs,
    "ip": _ips,
    "phone": _phones,
}
