"""Patterns of card and account numbers, national identification numbers and dates of birth.

A pattern finds a candidate; issuer ranges and a checksum confirm cards and accounts, and a checksum confirms national
numbers. Patterns and context words are written here; checksums come from python-stdnum. A national number of a common
shape (nine plain digits) needs a context word. One with a strong checksum or a distinctive format does not. A date of
birth always needs a context word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from luthier.pii import words
from luthier.pii.span import (
    CandidateSpan,
    Spans,
    TextPrescan,
    find_number_areas,
    lowercase_and_split_identifiers,
    match_near_numbers,
)

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


def find_card_numbers(text: str, marks: TextPrescan) -> Spans:
    """Card numbers of 12 to 19 digits that pass Luhn, in one piece or in groups."""
    for match in match_near_numbers(_CARD, text, marks, _FEWEST):
        written = match[0]
        if len(written) - written.count(" ") - written.count("-") < _FEWEST:
            continue
        for start, end in _candidates(text, match.start(), match.end()):
            number = text[start:end]
            if is_card_number(number) and (_is_scheme(number) or not _is_other(text, start)):
                yield CandidateSpan(start, end)


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


def is_card_number(written: str) -> bool:
    """Whether a number has an issuer's range, its length and a right check digit."""
    digits = re.sub("[ -]", "", written)
    shape = _FEWEST <= len(digits) <= 19 and _CARD_SHAPES.fullmatch(digits) is not None
    return shape and is_luhn_valid(digits) and len(set(digits)) > 1


def _is_scheme(written: str) -> bool:
    """Whether length and range are those of a scheme other than Maestro, whose short numbers many others look like."""
    digits = re.sub("[ -]", "", written)
    return len(digits) >= 16 or digits[0] in "34"


def _is_other(text: str, start: int) -> bool:
    """Whether a word just before says that it is the number of an order, a parcel or the like."""
    spoken = _WORD.findall(lowercase_and_split_identifiers(text[max(0, start - 40) : start]))[-4:]
    return not (words.OTHER_NUMBER | words.OTHER_THAN_PHONE).isdisjoint(spoken)


def is_luhn_valid(digits: str) -> bool:
    """Whether a digit string passes the Luhn checksum."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def find_ibans(text: str, marks: TextPrescan) -> Spans:
    """Account numbers with the country's length and right check digits."""
    for match in match_near_numbers(_IBAN, text, marks, 4):
        start = match.start() - 2
        length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
        if length is None:
            continue
        end, compact = start, ""
        while end < len(text) and len(compact) < length and (text[end].isalnum() or text[end] in " -\u00a0"):
            compact += text[end] if text[end].isalnum() else ""
            end += 1
        if not text[end : end + 1].isalnum() and iban_is_valid(compact.upper()):
            yield CandidateSpan(start, end)


def iban_is_valid(compact: str) -> bool:
    """Country, length and modulo 97 of an IBAN without spaces."""
    if len(compact) != _IBAN_LENGTHS.get(compact[:2]) or not (compact.isascii() and compact.isalnum()):
        return False
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


class NationalIdFormat(NamedTuple):
    """One country's number."""

    name: str
    """Its module in python-stdnum, or a name of our own where there is none."""
    shape: str
    """Fully matched, from its first digit on, by how it is written."""
    words: str
    """What people call it; a little before it, they let any of its shapes count."""
    alone: str = ""
    """Shapes that count without a word; empty: none do."""
    before: int = 0
    """Letters that stand before the first digit."""


US = "us.ssn"
_PAIRS = r"\d{2}[ ]?\d{2}[ ]?\d{2}"
_THREES = r"\d{3}[ -]?\d{3}[ -]?\d{3}"
_ELEVEN = r"\d{11}"
FORMS: tuple[NationalIdFormat, ...] = (
    NationalIdFormat(US, r"\d{3}[ -]?\d{2}[ -]?\d{4}", "ssn social", r"\d{3}-\d{2}-\d{4}"),
    NationalIdFormat("gb.nino", rf"{_PAIRS}[ ]?[A-Za-z]", "nino insurance ni", rf"{_PAIRS}[ ]?[A-D]", 2),
    NationalIdFormat(
        "de.idnr",
        rf"\d{{2}}[ ]\d{{3}}[ ]\d{{3}}[ ]\d{{3}}|{_ELEVEN}",
        "steuer steuernummer steuerid idnr tin steueridentifikationsnummer identifikationsnummer steueridnr",
        r"\d{2} \d{3} \d{3} \d{3}",
    ),
    NationalIdFormat(
        "fr.nir",
        r"[1-478][ ]?\d{2}[ ]?(?:0[1-9]|1[0-2]|[2-9]\d)[ ]?(?:\d{2}|2[AB])[ ]?\d{3}[ ]?\d{3}[ ]?\d{2}",
        "sécurité securité sociale sécu secu nir insee vitale",
        r"[1-2].*",
    ),
    NationalIdFormat(
        "es.dni", r"\d{8}[ -]?[A-Za-z]|\d{2}\.\d{3}\.\d{3}[ -]?[A-Za-z]", "dni nif documento identidad", r".{0,20}[A-Z]"
    ),
    NationalIdFormat("es.nie", r"\d{7}[ -]?[A-Za-z]", "nie extranjero extranjera extranjeros", r".{0,20}[A-Z]", 1),
    NationalIdFormat(
        "it.codicefiscale",
        r"\d[\dL-V][ ]?[A-Za-z][\dL-V]{2}[ ]?[A-Za-z][\dL-V]{3}[A-Za-z]",
        "codice fiscale cf",
        r".*",
        6,
    ),
    NationalIdFormat("nl.bsn", r"\d{9}|\d{4}[. ]\d{2}[. ]\d{3}", "bsn burgerservicenummer sofinummer sofi"),
    NationalIdFormat("pl.pesel", _ELEVEN, "pesel ewidencyjny"),
    NationalIdFormat(
        "br.cpf",
        rf"\d{{3}}\.\d{{3}}\.\d{{3}}-\d{{2}}|{_ELEVEN}",
        "cpf cadastro contribuinte",
        r"\d{3}\.\d{3}\.\d{3}-\d{2}",
    ),
    NationalIdFormat(
        "in_.aadhaar", r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", "aadhaar aadhar adhaar uid uidai", r"\d{4}([ -])\d{4}\1\d{4}"
    ),
    NationalIdFormat("ca.sin", _THREES, "sin nas social insurance assurance"),
    NationalIdFormat("au.tfn", rf"{_THREES}|\d{{8,9}}", "tfn tax file"),
    NationalIdFormat("us.itin", r"9\d{2}[ -]?\d{2}[ -]?\d{4}", "itin"),
    NationalIdFormat("se.personnummer", r"\d{6}(?:\d{2})?[-+]?\d{4}", "personnummer pnr", r".{0,20}[-+].{0,20}"),
    NationalIdFormat("dk.cpr", r"\d{6}[ -]?\d{4}", "cpr personnummer"),
    NationalIdFormat("no.fodselsnummer", r"\d{6}[ ]?\d{5}", "fødselsnummer fodselsnummer personnummer fnr"),
    NationalIdFormat("fi.hetu", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]", "hetu henkilötunnus", r".*"),
    NationalIdFormat(
        "be.nn",
        r"\d{2}[.]?\d{2}[.]?\d{2}[ -]?\d{3}[ .]?\d{2}",
        "rijksregisternummer rijksregister registre niss insz rrn register",
        r".{0,20}\..{0,20}",
    ),
    NationalIdFormat("ie.pps", r"\d{7}[A-Wa-w][A-IWa-iw]?", "pps ppsn"),
    NationalIdFormat("ch.ssn", r"756\.?\d{4}\.?\d{4}\.?\d{2}", "ahv avs oasi", r".{0,20}\..{0,20}"),
    NationalIdFormat("ro.cnp", r"[1-9]\d{12}", "cnp numeric"),
    NationalIdFormat("cz.rc", r"\d{6}/?\d{3,4}", "rodné rodne rč", r".{0,20}/.{0,20}"),
    NationalIdFormat("mx.curp", r"\d{6}[HMX][A-Z]{5}[0-9A-Z]\d", "curp", r".*", 4),
    NationalIdFormat("cl.rut", r"\d{1,2}\.?\d{3}\.?\d{3}-[\dKk]", "rut run", r".{0,20}\..{0,20}"),
    NationalIdFormat("za.idnr", r"\d{6}[ ]?\d{4}[ ]?\d{3}", "rsa african"),
    NationalIdFormat("tr.tckimlik", r"[1-9]\d{10}", "kimlik tckn"),
    NationalIdFormat("cn.ric", r"\d{17}[\dXx]", "身份证号 身份证号码 身份证", r".*"),
    NationalIdFormat("kr.rrn", r"\d{6}-[1-8]\d{6}", "주민등록번호 rrn", r".*"),
)
_WORDS_BEFORE = 7
_REACH = 80
_OWN = {
    US: re.compile(r"(?!9|000|666)\d{3}(?!00)\d{2}(?!0000)\d{4}"),
    "gb.nino": re.compile(r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]"),
}
"""Rules of numbers without a checksum: areas that the Social Security Administration gives; letters of HM Revenue."""
_DRESS = re.compile(r"[\s.\u00a0-]")


def find_national_ids(text: str, marks: TextPrescan) -> Spans:
    """Numbers of citizens and taxpayers, each with its form; that of the United States is a kind of its own."""
    done = 0
    for candidate in match_near_numbers(_CANDIDATE, text, marks, 6):
        at = candidate.start()
        if at >= done and _ANY_SHAPE.match(text, at) and (candidate_span := _judged(text, at)) is not None:
            done = candidate_span.end
            yield candidate_span


def is_national_id(name: str, written: str) -> bool:
    """Whether a number of this form is right: by its checksum, or by the rules of who gives it."""
    compact = _DRESS.sub("", written).upper()
    if name in _OWN:
        return _OWN[name].fullmatch(compact) is not None
    return bool(_module(name).is_valid(written.upper() if name in ("fi.hetu", "se.personnummer") else compact))


@cache
def _module(name: str) -> Any:
    return import_module(f"stdnum.{name}")


def _judged(text: str, digit: int) -> CandidateSpan | None:
    """The form that the number at this digit has: the one that most words name, or the first that needs no name."""
    spoken = _WORD.findall(lowercase_and_split_identifiers(text[max(0, digit - _REACH) : digit]))[-_WORDS_BEFORE:]
    general = not words.CITIZEN.isdisjoint(spoken)
    alone: CandidateSpan | None = None
    named: CandidateSpan | None = None
    most = 0.0
    for form, shape, names, dress in _FORMS_NAMED if general or not _ALL_NAMES.isdisjoint(spoken) else _FORMS_ALONE:
        match = shape.match(text, digit)
        if match is None:
            continue
        hits = len(names.intersection(spoken)) or general / 2
        dressed = alone is None and dress is not None and dress.fullmatch(match[0]) and not _goes_on(text, match.end())
        if not (hits > most or dressed) or (start := _start(text, digit, form.before)) is None:
            continue
        if is_national_id(form.name, text[start : match.end()]):
            span = CandidateSpan(start, match.end(), form.name)
            named, most = (span, hits) if hits > most else (named, most)
            alone = span if dressed else alone
    return named or (alone if words.OTHER_NUMBER.isdisjoint(spoken) else None)


def _start(text: str, digit: int, letters: int) -> int | None:
    """Where the number begins: at the digit, or so many letters before it, a space or hyphen between allowed."""
    start = digit
    if letters:
        if text[start - 1 : start] in (" ", "-"):
            start -= 1
        start -= letters
        if start < 0 or not text[start : start + letters].isalpha():
            return None
    return None if start > 0 and (text[start - 1].isalnum() or text[start - 1] in "_.,/+-") else start


def _goes_on(text: str, end: int) -> bool:
    return text[end : end + 1] == " " and text[end + 1 : end + 2].isdigit()


_END = r"(?![\w]|[-.,/]\d)"
_FORMS_NAMED = [
    (
        form,
        re.compile(f"(?:{form.shape}){_END}"),
        frozenset(form.words.split()),
        re.compile(form.alone) if form.alone else None,
    )
    for form in FORMS
]
_FORMS_ALONE = [each for each in _FORMS_NAMED if each[3] is not None]
_ALL_NAMES = frozenset(word for form in FORMS for word in form.words.split())
_ANY_SHAPE = re.compile("|".join(dict.fromkeys(f"(?:{form.shape}){_END}" for form in FORMS)))
_CANDIDATE = re.compile(r"\d(?<!\d\d)(?=(?:[ .\-/]?\d){5}|\d ?[A-Za-z]\d\d)")
"""A digit from which some form may go on: six digits, or letters among them."""


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
_BIRTHS_WORD = re.compile(r"\w+(?:\.+\w+)*")
_BIRTHS_WORDS_BEFORE = 6
_BORN_AFTER = re.compile(
    r"\W{1,3}(?:geboren|born|née?|nacid[oa]|nat[oa]|urodzon[ya])\b"
    r"|\W{1,3}(?:is|was|ist|es|est)? ?(?:my|his|her|the|mein|meine?|mi|ma)? ?(?:\w{1,8} )?"
    r"(?:birthday|birthdate|date of birth|dob|geburtstag|geburtsdatum|date de naissance|cumpleaños)\b",
    re.IGNORECASE,
)
_BIRTHS_REACH = 60
_YEAR_CHARS = 4
_SHORTEST_DATE = 6
_DATE_NAMES = ("date", "datum")


def find_birth_dates(text: str, marks: TextPrescan) -> Spans:
    """Dates that a word such as `born` or `DOB` stands before, or `is my birthday` behind."""
    for start, end, length in find_number_areas(text) if marks.areas is None else marks.areas:
        if length == _YEAR_CHARS or length >= _SHORTEST_DATE:
            for date in _dates(text, start, end):
                spoken = _BIRTHS_WORD.findall(
                    lowercase_and_split_identifiers(text[max(0, date.start - _BIRTHS_REACH) : date.start])
                )[-_BIRTHS_WORDS_BEFORE:]
                if _is_said_of(spoken) or _BORN_AFTER.match(text, date.end):
                    yield date


def _is_said_of(spoken: Sequence[str]) -> bool:
    """Whether words before a date speak of a birth, and the last does not name another date (`current_date`)."""
    if words.BORN.isdisjoint(spoken):
        return False
    return not spoken[-1].endswith(_DATE_NAMES) or not words.BORN.isdisjoint(spoken[-2:])


def _dates(text: str, start: int, end: int) -> Spans:
    for match in _DATE.finditer(text, start, end):
        yield CandidateSpan(*match.span())
    for match in _YEAR_LAST.finditer(text, start, end):
        month = _MONTH_FIRST.search(text[max(0, match.start() - 14) : match.end()])
        if month:
            yield CandidateSpan(match.end() - len(month[0]), match.end())
