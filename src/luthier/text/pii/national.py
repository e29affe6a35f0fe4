"""Numbers that a state gives a person once: their shape proposes, their checksum decides, a word near them helps.

Shapes and words are written here; checksums are python-stdnum's. A number whose shape many other numbers share (nine
plain digits) counts only where a word says what it is; one with a strong checksum or a dress of its own counts alone.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from luthier.text.pii import words
from luthier.text.pii.found import Marks, Span, Spans, near, small_words


class Form(NamedTuple):
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
FORMS: tuple[Form, ...] = (
    Form(US, r"\d{3}[ -]?\d{2}[ -]?\d{4}", "ssn social", r"\d{3}-\d{2}-\d{4}"),
    Form("gb.nino", rf"{_PAIRS}[ ]?[A-Za-z]", "nino insurance ni", rf"{_PAIRS}[ ]?[A-D]", 2),
    Form("de.idnr", rf"\d{{2}}[ ]\d{{3}}[ ]\d{{3}}[ ]\d{{3}}|{_ELEVEN}",
         "steuer steuernummer steuerid idnr tin steueridentifikationsnummer identifikationsnummer steueridnr",
         r"\d{2} \d{3} \d{3} \d{3}"),
    Form("fr.nir", r"[1-478][ ]?\d{2}[ ]?(?:0[1-9]|1[0-2]|[2-9]\d)[ ]?(?:\d{2}|2[AB])[ ]?\d{3}[ ]?\d{3}[ ]?\d{2}",
         "sécurité securité sociale sécu secu nir insee vitale", r"[1-2].*"),
    Form("es.dni", r"\d{8}[ -]?[A-Za-z]|\d{2}\.\d{3}\.\d{3}[ -]?[A-Za-z]", "dni nif documento identidad",
         r".{0,20}[A-Z]"),
    Form("es.nie", r"\d{7}[ -]?[A-Za-z]", "nie extranjero extranjera extranjeros", r".{0,20}[A-Z]", 1),
    Form("it.codicefiscale", r"\d[\dL-V][ ]?[A-Za-z][\dL-V]{2}[ ]?[A-Za-z][\dL-V]{3}[A-Za-z]", "codice fiscale cf",
         r".*", 6),
    Form("nl.bsn", r"\d{9}|\d{4}[. ]\d{2}[. ]\d{3}", "bsn burgerservicenummer sofinummer sofi"),
    Form("pl.pesel", _ELEVEN, "pesel ewidencyjny"),
    Form("br.cpf", rf"\d{{3}}\.\d{{3}}\.\d{{3}}-\d{{2}}|{_ELEVEN}", "cpf cadastro contribuinte",
         r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
    Form("in_.aadhaar", r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", "aadhaar aadhar adhaar uid uidai",
         r"\d{4}([ -])\d{4}\1\d{4}"),
    Form("ca.sin", _THREES, "sin nas social insurance assurance"),
    Form("au.tfn", rf"{_THREES}|\d{{8,9}}", "tfn tax file"),
    Form("us.itin", r"9\d{2}[ -]?\d{2}[ -]?\d{4}", "itin"),
    Form("se.personnummer", r"\d{6}(?:\d{2})?[-+]?\d{4}", "personnummer pnr", r".{0,20}[-+].{0,20}"),
    Form("dk.cpr", r"\d{6}[ -]?\d{4}", "cpr personnummer"),
    Form("no.fodselsnummer", r"\d{6}[ ]?\d{5}", "fødselsnummer fodselsnummer personnummer fnr"),
    Form("fi.hetu", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]", "hetu henkilötunnus", r".*"),
    Form("be.nn", r"\d{2}[.]?\d{2}[.]?\d{2}[ -]?\d{3}[ .]?\d{2}",
         "rijksregisternummer rijksregister registre niss insz rrn register", r".{0,20}\..{0,20}"),
    Form("ie.pps", r"\d{7}[A-Wa-w][A-IWa-iw]?", "pps ppsn"),
    Form("ch.ssn", r"756\.?\d{4}\.?\d{4}\.?\d{2}", "ahv avs oasi", r".{0,20}\..{0,20}"),
    Form("ro.cnp", r"[1-9]\d{12}", "cnp numeric"),
    Form("cz.rc", r"\d{6}/?\d{3,4}", "rodné rodne rč", r".{0,20}/.{0,20}"),
    Form("mx.curp", r"\d{6}[HMX][A-Z]{5}[0-9A-Z]\d", "curp", r".*", 4),
    Form("cl.rut", r"\d{1,2}\.?\d{3}\.?\d{3}-[\dKk]", "rut run", r".{0,20}\..{0,20}"),
    Form("za.idnr", r"\d{6}[ ]?\d{4}[ ]?\d{3}", "rsa african"),
    Form("tr.tckimlik", r"[1-9]\d{10}", "kimlik tckn"),
    Form("cn.ric", r"\d{17}[\dXx]", "身份证号 身份证号码 身份证", r".*"),
    Form("kr.rrn", r"\d{6}-[1-8]\d{6}", "주민등록번호 rrn", r".*"),
)  # fmt: skip
_WORDS_BEFORE = 7
_REACH = 80
_OWN = {
    US: re.compile(r"(?!9|000|666)\d{3}(?!00)\d{2}(?!0000)\d{4}"),
    "gb.nino": re.compile(r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]"),
}
"""Rules of numbers without a checksum: areas that the Social Security Administration gives; letters of HM Revenue."""
_DRESS = re.compile(r"[\s.\u00a0-]")
_WORD = re.compile(r"\w+")


def national_ids(text: str, marks: Marks) -> Spans:
    """Numbers of citizens and taxpayers, each with its form; that of the United States is a kind of its own."""
    done = 0
    for candidate in near(_CANDIDATE, text, marks, 6):
        at = candidate.start()
        if at >= done and _ANY_SHAPE.match(text, at) and (found := _judged(text, at)) is not None:
            done = found.end
            yield found


def is_national_id(name: str, written: str) -> bool:
    """Whether a number of this form is right: by its checksum, or by the rules of who gives it."""
    compact = _DRESS.sub("", written).upper()
    if name in _OWN:
        return _OWN[name].fullmatch(compact) is not None
    return bool(_module(name).is_valid(written.upper() if name in ("fi.hetu", "se.personnummer") else compact))


@cache
def _module(name: str) -> Any:
    return import_module(f"stdnum.{name}")


def _judged(text: str, digit: int) -> Span | None:
    """The form that the number at this digit has: the one that most words name, or the first that needs no name."""
    spoken = _WORD.findall(small_words(text[max(0, digit - _REACH) : digit]))[-_WORDS_BEFORE:]
    general = not words.CITIZEN.isdisjoint(spoken)
    alone: Span | None = None
    named: Span | None = None
    most = 0.0
    for form, shape, names, dress in _FORMS_NAMED if general or not _ALL_NAMES.isdisjoint(spoken) else _FORMS_ALONE:
        match = shape.match(text, digit)
        if match is None:
            continue
        said = len(names.intersection(spoken)) or general / 2
        dressed = alone is None and dress is not None and dress.fullmatch(match[0]) and not _goes_on(text, match.end())
        if not (said > most or dressed) or (start := _start(text, digit, form.before)) is None:
            continue
        if is_national_id(form.name, text[start : match.end()]):
            span = Span(start, match.end(), form.name)
            named, most = (span, said) if said > most else (named, most)
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
