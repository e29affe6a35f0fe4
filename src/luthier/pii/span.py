"""PII spans: the kinds of personal data, which of them do lasting harm, and a match in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

PiiKind = Literal[
    "url_secret",
    "secret",
    "email",
    "iban",
    "card",
    "ssn",
    "national_id",
    "mac",
    "ip",
    "birth_date",
    "phone",
    "address",
    "person",
    "organisation",
]
KINDS: tuple[PiiKind, ...] = get_args(PiiKind)
"""All kinds; where two claim the same text, the earlier one has it."""
NAME_KINDS: tuple[PiiKind, ...] = ("person", "organisation")
"""What only a recogniser of names can find."""
PATTERN_KINDS: tuple[PiiKind, ...] = tuple(kind for kind in KINDS if kind not in NAME_KINDS)
"""What patterns and checksums find."""
HIGH_RISK: tuple[PiiKind, ...] = ("secret", "url_secret", "card", "iban", "ssn", "national_id")
"""What does harm that cannot be undone: keys, means of payment, numbers that a state gives once."""


class PiiSpan(NamedTuple):
    """A piece of personal data in a text."""

    start: int
    end: int
    kind: PiiKind
    text: str
    form: str = ""
    """Which of several forms of its kind it has: `nl.bsn`; of a person, `given` or `surname`."""


class CandidateSpan(NamedTuple):
    """What one finder claims, before it is weighed against the others."""

    start: int
    end: int
    form: str = ""


Spans = Iterator[CandidateSpan]


Area = tuple[int, int, int]
"""Start, end and length: a stretch of a text with a number of some length in it (characters from its first digit to its
last); such numbers are looked for there only."""
Mark = Literal["digits", "long", "keys", "places", "mixed"]
"""Digits; a word as long as a key; one with letters and digits, as passwords have; one that a street without a number
or a box of the post office is told by; one with letters and digits that may be shorter, as accounts of banks begin."""


class TextPrescan(NamedTuple):
    """What a quick scan of one text found, by which finders skip texts that cannot match."""

    missing: frozenset[Mark] = frozenset()
    """What it surely has not."""
    areas: Sequence[Area] | None = None
    """Where numbers of some length stand; None: that was not looked for."""
    digits: Sequence[int] | None = None
    """Where digits begin that stand behind none; None: that was not looked for."""
    long: str | None = None
    """Its words that are as long as keys; None: that was not looked for."""


ANY = TextPrescan()
_NUMBER = re.compile(r"\d(?:[^\w\n]{0,3}[A-Za-z]?\d){3,}")
"""At least four digits (`DIGITS`) with little between them: no numbered list, and every number that is looked for."""
DIGITS = 4
BEFORE = 16
"""So far a bracket, a plus sign, or a day and its month may stand before them."""
BEHIND = 24
"""So far a number's end may reach behind them."""


def find_number_areas(text: str) -> list[Area]:
    """Where numbers of some length stand, with what may belong to them; no area reaches into the next one's number."""
    spans = [match.span() for match in _NUMBER.finditer(text)]
    found: list[Area] = []
    last = 0
    for (start, end), (following, _) in zip(spans, (*spans, (len(text), 0))[1:], strict=True):
        found.append((max(last, start - BEFORE), min(following, end + BEHIND), end - start))
        last = end
    return found


_NO_WORD = re.compile(r"\W+")
_JOINT = re.compile(r"_+|(?<=[a-z])(?<!\bi)(?=[A-Z][a-z])")


def _apart(text: str) -> str:
    """A text with the words of names of fields apart: `phone_number` and `phoneNumber` are two."""
    return _JOINT.sub(" ", text)


def field_context_of(name: str) -> str:
    """What a value is read with: the words of its field's name, and a colon."""
    return _apart(_NO_WORD.sub(" ", name)) + ": "


def lowercase_and_split_identifiers(text: str) -> str:
    """A text in small letters; where a sign of code says that there may be names of fields, their words are apart."""
    is_code = "_" in text or '"' in text or "=" in text or "':" in text
    return (_apart(text) if is_code else text).lower()


def match_near_numbers(pattern: re.Pattern[str], text: str, marks: TextPrescan, least: int) -> Iterator[re.Match[str]]:
    """Matches of a pattern in areas whose number is `least` characters long or longer."""
    for start, end, length in find_number_areas(text) if marks.areas is None else marks.areas:
        if length >= least:
            yield from pattern.finditer(text, start, end)
