"""Patterns of contact data and network addresses: e-mail, telephone numbers of all countries, IPv4, IPv6 and MAC.

Version numbers of programs are excluded. In scripts without spaces, signs beside letters and digits are separated
first, and digits of other scripts become ASCII: `卡号是4111111111111111` has no word boundary before the number, and
`٠١٠` no digit that a checksum accepts.
"""

from __future__ import annotations

import ipaddress
import re
from functools import cache, lru_cache
from itertools import pairwise

from luthier.pii import words
from luthier.pii.span import CandidateSpan, Spans, TextPrescan, lowercase_and_split_identifiers, match_near_numbers

_EMAIL_HOST = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])")
_LOCAL_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'")
_LONGEST_LOCAL = 64
_DASHES = "\u2010\u2011\u2012\u2013"
_PHONE = re.compile(
    rf"[+(\d](?<![\w+@#/.{_DASHES}-][+(\d])\+?[\d ().\-/\u00a0{_DASHES}]{{5,25}}\d"
    r"(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?(?![\w@])",
    re.IGNORECASE,
)
_EXTENSION = re.compile(r"[ ]?(?:x|ext\.?)[ ]?\d{1,6}$", re.IGNORECASE)
_WORD = re.compile(r"\w+")
_WORDS_BEFORE = 5
_SIGNS_BEFORE = 20
_SERIES = 5
"""Terms from which on numbers that grow are a series."""
_FEWEST = 7
"""Digits of a number that can be called."""
_PHONE_STEMS = (
    *(
        "telephone",
        "cellphone",
        "smartphone",
        "telefo",
        "téléph",
        "teléfo",
        "handy",
        "mobil",
        "móvil",
        "movil",
        "komórk",
    ),
)
_PHONE_SIGNS = re.compile(
    "电话|電話|手机|手機|携帯|联系方式|热线|전화|휴대폰|핸드폰|연락처|โทร|เบอร์|هاتف|جوال|موبايل|تلفون|फोन|फ़ोन|मोबाइल|"
    "телефон|тел[.:]|моб[.:]|τηλ|κινητό|טלפון|נייד|điện thoại|sđt",
)
"""A telephone's name where words are not told by spaces, or not by Python's patterns."""
_CALL_STEMS = ("anruf", "erreich", "llam", "llám", "appel", "chiam", "zadzwo", "dzwo", "ligue", "ligar")
_PHONE_AFTER = re.compile(r"\W{0,3}(?:office|fax|mobile|cell|home|work|phone)\b", re.IGNORECASE)
_CARRIER = re.compile(r"\b[A-Z]{2} $")
"""Two capitals stand before numbers of parcels and letters."""
_OTHER_STEMS = ("bestell", "auftrag", "rechnung", "konto", "artikel", "kunden", "sendung")
_ABROAD = re.compile(r"00[1-9]")
"""The international prefix before a country code, none of which begins with 0."""
_NANP = re.compile(r"(?:1[ .-]?)?(?:\(\d{3}\) ?|[2-9]\d\d[ .-])\d{3}[ .-]\d{4}")
_DATE = re.compile(
    r"\d{1,2}([./-])\d{1,2}\1(?:\d{4}|\d{2})(?!\d|\1\d)|\d{4}([./-])\d{1,2}\2\d{1,2}(?!\d)|\d{3}-\d\d-\d{4}"
    rf"|\d{{1,2}}\.(?:\d{{1,2}}\.)? ?[-{_DASHES}] ?\d{{1,2}}\.\d{{1,2}}\.(?:\d{{4}}|\d{{2}})(?!\d)"
)
"""A date, also with the day or the day and month before it from which on a time runs: `01.02.-03.02.2024`."""
_DECIMALS = re.compile(rf"[+-]?[01]\.\d+(?:(?: ?[/{_DASHES}-] ?| )[+-]?[01]\.\d+)+")
"""Scores and shares: `0.671/0.599/0.576`. No number to call has in each group a single digit before a point."""
_SETS = re.compile(r"\d-\d(?: \d-\d)+")
"""Games won in each set of a match: `6-4 7-5 6-3`."""
_THOUSANDS = re.compile(r"\d{1,2}(?: \d{3})+")
_HOUSE_AND_CODE = re.compile(
    r"[1-9]\d{0,3}[/-][1-9]\d{0,3} (?:\d{2}-\d{3}|\d{3} \d{2}|\d{4}-\d{3})|[1-9]\d{0,2}[/-][1-9]\d? \d{4,5}"
)
"""House, flat and post code: `12/4 00-526`, `12/4 00184`."""
_TERM_BEFORE, _TERM_AFTER = re.compile(r"(?:[$€£]|<<) ?$"), re.compile(r" ?[=*×] ?[$€£]?(?:\d|<<)")
"""Around the terms of a sum: `$3000 / 200`, `960-480-120 = 360`, `5200 - 80 - 80 * 3`."""
_STREET_BEFORE = re.compile(r"\b([^\W\d_a-z][^\W\d_]*)\.? $")
_TOWN_AFTER = re.compile(r",? [^\W\d_a-z][^\W\d_]")
_NO_DIGIT = re.compile(r"\D")
_ISBN = re.compile(r"97[89][ -]?(?:\d[ -]?){9}\d|(?:\d[ -]){1}\d{2,7}[ -]\d{2,7}[ -][\dX]")
_GROUPED = ("ES", "IT", "PT", "PL", "NO", "DK", "SE", "CZ", "GR", "HU", "IN", "BR", "RU", "SG", "HK")
"""Countries whose national numbers need no 0 before them: in groups they count when the country gives such numbers."""


def find_email_addresses(text: str, _marks: TextPrescan) -> Spans:
    """From each @ to the left as far as a local part reaches (64 characters), to the right as far as a host does."""
    at = text.find("@")
    while at >= 0:
        start = at
        while start > 0 and at - start < _LONGEST_LOCAL and _is_local(text[start - 1]):
            start -= 1
        while start < at and text[start] in ".-'%+":
            start += 1
        host = _EMAIL_HOST.match(text, at + 1)
        if start < at and host:
            yield CandidateSpan(start, host.end())
        at = text.find("@", at + 1)


def _is_local(char: str) -> bool:
    return char in _LOCAL_CHARS or (char > "\x7f" and char.isalnum())


def find_phone_numbers(text: str, marks: TextPrescan) -> Spans:
    """Numbers with an international prefix, in a national shape, or named as telephone numbers."""
    for match in match_near_numbers(_PHONE, text, marks, _FEWEST):
        start = match.start()
        written = match[0].rstrip(" (.-/")
        if written.startswith("(") and ")" not in written:
            start, written = start + 1, written[1:]
        end = start + len(written)
        number = _EXTENSION.sub("", written)
        if _is_phone(number, text[max(0, start - 50) : start], text[end : end + 12]):
            yield CandidateSpan(start, end)


def _is_phone(written: str, before: str, after: str) -> bool:
    digits = _NO_DIGIT.sub("", written)
    if (
        len(digits) < _FEWEST
        or _is_something_else(written)
        or _CARRIER.search(before)
        or _TERM_BEFORE.search(before)
        or _TERM_AFTER.match(after)
        or _is_house(written, before, after)
    ):
        return False
    if written.startswith(("+", "(+")):
        return 8 <= len(digits) <= 17
    if _ABROAD.match(written) and len(digits) >= 11:
        return len(digits) <= 17
    spoken = _WORD.findall(lowercase_and_split_identifiers(before))[-_WORDS_BEFORE:]
    if not before.isascii() and _PHONE_SIGNS.search(before[-_SIGNS_BEFORE:].lower()):
        return len(digits) <= 15
    if _said(spoken[-_WORDS_BEFORE + 1 :], words.PHONE, _PHONE_STEMS):
        return len(digits) <= 15
    is_other = _said(spoken[-_WORDS_BEFORE + 1 :], words.OTHER_THAN_PHONE, _OTHER_STEMS)
    return not is_other and _looks_like_a_phone(written, digits, spoken, after)


def _looks_like_a_phone(written: str, digits: str, spoken: list[str], after: str) -> bool:
    """Whether a number that nothing names has the shape of one to call."""
    if _NANP.fullmatch(written):
        return True
    groups = len(re.findall(r"\d+", written))
    called = _said(spoken, words.CALL, _CALL_STEMS) and (groups > 1 or digits[0] == "0" or len(digits) >= 9)
    if called or _PHONE_AFTER.match(after):
        return len(digits) <= 15
    if digits[0] == "0" and digits[1] != "0" and 9 <= len(digits) <= 12 and 2 <= groups <= 6:
        return True
    is_sum = "." in written or _THOUSANDS.fullmatch(written) is not None
    return groups >= 3 and 8 <= len(digits) <= 13 and not is_sum and _is_given_somewhere(digits)


def _is_house(written: str, before: str, after: str) -> bool:
    """Whether it is what stands between a street and a town."""
    if not _HOUSE_AND_CODE.fullmatch(written) or not _TOWN_AFTER.match(after):
        return False
    street = _STREET_BEFORE.search(before)
    return street is not None and not _said([street[1].lower()], words.PHONE, _PHONE_STEMS)


def _said(spoken: list[str], names: frozenset[str], stems: tuple[str, ...]) -> bool:
    return not names.isdisjoint(spoken) or any(word.startswith(stems) for word in spoken)


@lru_cache(maxsize=4096)
def _is_given_somewhere(digits: str) -> bool:
    """Whether a country without a leading 0 gives such numbers."""
    import phonenumbers

    for region in _GROUPED:
        try:
            number = phonenumbers.parse(digits, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number_for_region(number, region):
            return True
    return False


def _is_something_else(written: str) -> bool:
    """A date, the shape of a social security number, a book's number, decimals, sets of a match, a series, or brackets
    that do not pair."""
    is_opened = written[0] == "+" and not (written[1].isdigit() or written[1] == "(")
    is_opened = is_opened or (written[0] == "(" and not (written[1].isdigit() or written[1] == "+"))
    if is_opened or written.count("(") != written.count(")") or _DATE.match(written) or _is_series(written):
        return True
    if _DECIMALS.fullmatch(written) or _SETS.fullmatch(written):
        return True
    return _ISBN.fullmatch(written) is not None and _is_isbn(written)


def _is_series(written: str) -> bool:
    """Whether it is growing numbers, which begin with several of one digit: `1 3 7 15 31 63`, `1-2-3-4-5-6-7`."""
    terms = written.replace("-", " ").split(" ")
    if len(terms) < _SERIES or not all(map(str.isdecimal, terms)) or len(terms[1]) > 1:
        return False
    numbers = list(map(int, terms))
    return all(entry < other for entry, other in pairwise(numbers))


def _is_isbn(written: str) -> bool:
    from stdnum import isbn

    return bool(isbn.is_valid(written))


_MAC = re.compile(
    r"[0-9A-Fa-f](?<![0-9A-Za-z:.-][0-9A-Fa-f])[0-9A-Fa-f]([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![0-9A-Za-z:-])"
)
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\d)")
_IPV6_MARK = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6_CHARS = frozenset("0123456789abcdefABCDEF:")
_IPV6_LONGEST = 39
_COLONS = 2
_VERSION_BEFORE = re.compile(
    r"\bv$|\b(?:versions?|releases?|build|firmware|ver|rev|upgraded?|updated?)\b[ .:]{0,2}"
    r"(?:(?:of|is|on|in|to|from|the|my|your|now|at|sensors?|device|router|app) ){0,5}$"
    r"|(?:版本?|バージョン?|버전?)[、:： ]{0,2}$",
    re.IGNORECASE,
)


def find_mac_addresses(text: str, _marks: TextPrescan) -> Spans:
    """Hardware addresses in pairs; letters tell them from times."""
    if text.count(":") >= 5 or text.count("-") >= 5:
        for match in _MAC.finditer(text):
            if not match[0].replace(":", "").replace("-", "").isdigit():
                yield CandidateSpan(*match.span())


def find_ipv4_addresses(text: str, marks: TextPrescan) -> Spans:
    """Addresses of version 4, where no word says that it is a version."""
    for match in match_near_numbers(_IPV4, text, marks, 7):
        before = text[max(0, match.start() - 50) : match.start()]
        if is_ip_address(match[0]) and not _VERSION_BEFORE.search(before):
            yield CandidateSpan(*match.span(), "4")


def find_ipv6_addresses(text: str, _marks: TextPrescan) -> Spans:
    """Addresses of version 6: from each pair of colons as far as hexadecimal digits and colons reach."""
    if text.count(":") < _COLONS:
        return
    done = 0
    for mark in _IPV6_MARK.finditer(text):
        start, end = mark.span()
        if start < done:
            continue
        while start > 0 and mark.start() - start < _IPV6_LONGEST and text[start - 1] in _IPV6_CHARS:
            start -= 1
        while end < len(text) and end - start <= _IPV6_LONGEST and text[end] in _IPV6_CHARS:
            end += 1
        done = end
        if text[end - 1] == ":" and text[end - 2] != ":":
            end -= 1
        alone = not text[max(0, start - 1) : start].isalnum() and not text[end : end + 1].isalnum()
        if alone and end - start > 4 and is_ip_address(text[start:end]):
            yield CandidateSpan(start, end, "6")


def is_ip_address(text: str) -> bool:
    """Whether the standard library reads it as an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


SIGNS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, Chinese, Japanese and Korean: scripts whose words touch numbers."""
_BESIDE = re.compile(rf"[{SIGNS}](?=[0-9A-Za-z+(])|(?<=[0-9A-Za-z)])[{SIGNS}]")
_OTHER_DIGIT = re.compile(r"[^\W0-9A-Za-z](?<=\d)|[\uff01-\uff5e]")
"""Digits of other scripts, and forms as wide as signs."""
_IS_OTHER = re.compile("[\u0660-\u1fff\u2e80-\ud7ff\uf900-\U0001efff\U0001fbf0-\U0003ffff]")
"""What either of them may hold: nothing of Latin, Greek, Cyrillic and Hebrew, of punctuation and emoji."""
_BORDER = "、"
"""No pattern takes it for a part of anything."""


def separate_digits_and_signs(text: str) -> str | None:
    """A text of the same length with plain digits and with borders where signs touch letters and digits; None where
    nothing changes."""
    if text.isascii() or not _IS_OTHER.search(text):
        return None
    found = text.translate(_plain()) if _OTHER_DIGIT.search(text) else text
    found = _BESIDE.sub(_BORDER, found)
    return None if found == text else found


def to_ascii_digits(text: str) -> str:
    """A text with the digits of every script as those of ASCII, and wide forms as narrow ones."""
    return text if text.isascii() else text.translate(_plain())


@cache
def _plain() -> dict[int, str]:
    digits = {code: str(int(chr(code))) for code in range(0x80, 0x20000) if chr(code).isdecimal()}
    return digits | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0x2212: "-"}
