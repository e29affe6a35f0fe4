"""One look at a text for all kinds of personal data; cheap marks decide which finders are worth their time."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Sequence

from luthier.text.pii import addresses, births, contact, money, national, network, secrets
from luthier.text.pii.found import PATTERN_KINDS, Areas, Found, PiiKind, Spans, areas
from luthier.text.pii.marks import ANY, Mark, Marks

_FINDERS: tuple[tuple[PiiKind, Callable[[str, Areas], Spans], Mark | None], ...] = (
    ("url_secret", secrets.url_secrets, None),
    ("secret", secrets.published, "long"),
    ("secret", secrets.named, "keys"),
    ("email", contact.emails, None),
    ("mac", network.macs, None),
    ("ip", network.ips, None),
    ("iban", money.ibans, "digits"),
    ("card", money.cards, "digits"),
    ("national_id", national.national_ids, "digits"),
    ("birth_date", births.birth_dates, "digits"),
    ("phone", contact.phones, "digits"),
    ("address", addresses.numbered, "digits"),
    ("address", addresses.unnumbered, "places"),
)
"""In the order of their claims, with the mark that they need; that of national numbers finds `ssn`, too."""


def find(
    text: str, kinds: Collection[PiiKind] = PATTERN_KINDS, more: Sequence[Found] = (), marks: Marks = ANY
) -> list[Found]:
    """Everything of these kinds in a text, in order, without overlaps.

    `more` is what a recogniser of names has found in it: it stands behind what patterns find.
    """
    taken: list[Found] = []
    near = marks.areas if marks.areas is not None else areas(text)
    for kind, finder, need in _FINDERS:
        if need not in marks.missing and (kind in kinds or (kind == "national_id" and "ssn" in kinds)):
            _take_all(taken, text, kind, finder(text, near), kinds)
    for found in more:
        if found.kind in kinds:
            _take(taken, found)
    return taken


def _take_all(taken: list[Found], text: str, kind: PiiKind, spans: Spans, kinds: Collection[PiiKind]) -> None:
    for start, end, form in spans:
        actual: PiiKind = "ssn" if form == national.US else kind
        if actual in kinds:
            _take(taken, Found(start, end, actual, text[start:end], form))


def _take(taken: list[Found], found: Found) -> None:
    """Keep a find in order, unless another has some of its text."""
    at = bisect_left(taken, found)
    free_before = at == 0 or taken[at - 1].end <= found.start
    if free_before and (at == len(taken) or found.end <= taken[at].start):
        insort(taken, found)
