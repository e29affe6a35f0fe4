"""One look at a text for all kinds of personal data; cheap marks decide which finders are worth their time."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from luthier.pii import accounts, patterns, secrets
from luthier.pii.addresses import detect
from luthier.pii.patterns import separate_digits_and_signs
from luthier.pii.span import ANY, KINDS, PATTERN_KINDS, Mark, PiiKind, PiiSpan, Spans, TextPrescan, find_number_areas

_TAG_NAME = re.compile(rf"\[(?:{'|'.join(kind.upper() for kind in KINDS)})(?=[\]:])")
"""What stands for personal data that was taken out begins so."""


class _Finder(NamedTuple):
    kind: PiiKind
    """What it finds; that of national numbers finds `ssn`, too."""
    spans: Callable[[str, TextPrescan], Spans]
    needs: Mark | None = None
    """Without this mark it finds nothing."""
    longest: int = 0
    """Nor does it when no number is so long."""
    sign: str = ""
    """Nor in a text without this."""


_FINDERS = (
    _Finder("url_secret", secrets.find_url_logins, sign="://"),
    _Finder("url_secret", secrets.find_url_query_tokens, sign="="),
    _Finder("secret", secrets.find_provider_keys, "long"),
    _Finder("secret", secrets.find_named_secrets, "keys"),
    _Finder("email", patterns.find_email_addresses, sign="@"),
    _Finder("mac", patterns.find_mac_addresses),
    _Finder("ip", patterns.find_ipv4_addresses, "digits", 7),
    _Finder("ip", patterns.find_ipv6_addresses, sign=":"),
    _Finder("iban", accounts.find_ibans, "mixed", 4),
    _Finder("card", accounts.find_card_numbers, "digits", 12),
    _Finder("national_id", accounts.find_national_ids, "digits", 6),
    _Finder("birth_date", accounts.find_birth_dates, "digits", 4),
    _Finder("phone", patterns.find_phone_numbers, "digits", 7),
    _Finder("address", detect.find_numbered_addresses, "digits"),
    _Finder("address", detect.find_unnumbered_addresses, "places"),
)
"""In the order of their claims."""


def find_pii(
    text: str, kinds: Collection[PiiKind] = PATTERN_KINDS, more: Sequence[PiiSpan] = (), marks: TextPrescan = ANY
) -> list[PiiSpan]:
    """Everything of these kinds in a text, in order, without overlaps.

    `more` is what a recogniser of names has found in it: it stands behind what patterns find, but that an address and
    what patterns see of it are one.
    """
    pii_spans: list[PiiSpan] = []
    if (plainer := separate_digits_and_signs(text)) is not None:
        for pii_span in _found(plainer, frozenset(kinds) - {"address"}, ANY):
            _take(pii_spans, pii_span._replace(text=text[pii_span.start : pii_span.end]))
    for pii_span in _found(text, frozenset(kinds), marks):
        _take(pii_spans, pii_span)
    for pii_span in more:
        if pii_span.kind in kinds:
            _take(pii_spans, _whole(text, pii_spans, pii_span) if pii_span.kind == "address" else pii_span)
    return pii_spans


def hide_pii_tags(text: str) -> str:
    """A text of the same length in which nothing that stands for personal data (`[SSN]`) names what follows."""
    return _TAG_NAME.sub(lambda tag: "[" + "x" * (len(tag[0]) - 1), text) if "[" in text else text


def _whole(text: str, taken: list[PiiSpan], found: PiiSpan) -> PiiSpan:
    """An address with the parts of it that were found before, which are taken back; it ends where something else is."""
    start, end = found.start, found.end
    for pii_span in taken:
        if pii_span.kind != "address" and pii_span.start < end and start < pii_span.end:
            start, end = (
                (start, pii_span.start) if pii_span.start - start >= end - pii_span.end else (pii_span.end, end)
            )
    if not any(map(str.isdigit, text[start:end])):
        return found
    parts = [
        pii_span for pii_span in taken if pii_span.kind == "address" and pii_span.start < end and start < pii_span.end
    ]
    taken[:] = [pii_span for pii_span in taken if pii_span not in parts]
    start, end = min([start, *(part.start for part in parts)]), max([end, *(part.end for part in parts)])
    return PiiSpan(start, end, "address", text[start:end])


def _found(text: str, kinds: frozenset[PiiKind], marks: TextPrescan) -> Iterator[PiiSpan]:
    """What each finder claims, in the order of their claims."""
    if marks.areas is None:
        marks = marks._replace(areas=find_number_areas(text))
    longest = max([length for _, _, length in marks.areas or ()], default=0)
    for kind, spans, _, least, sign in _finders(kinds, marks.missing):
        if longest >= least and sign in text:
            for start, end, form in spans(text, marks):
                actual: PiiKind = "ssn" if form == accounts.US else kind
                if actual in kinds:
                    yield PiiSpan(start, end, actual, text[start:end], form)


@cache
def _finders(kinds: frozenset[PiiKind], missing: frozenset[Mark]) -> tuple[_Finder, ...]:
    """Those that may find something of some kinds in a text that lacks some marks."""
    requested = {*kinds, "national_id"} if "ssn" in kinds else kinds
    return tuple(finder for finder in _FINDERS if finder.kind in requested and finder.needs not in missing)


def _take(taken: list[PiiSpan], found: PiiSpan) -> None:
    """Keep a find in order, unless another has some of its text."""
    at = bisect_left(taken, found)
    free_before = at == 0 or taken[at - 1].end <= found.start
    if free_before and (at == len(taken) or found.end <= taken[at].start):
        insort(taken, found)
