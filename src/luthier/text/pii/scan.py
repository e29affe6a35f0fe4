"""One look at a text for all kinds of personal data; cheap marks decide which finders are worth their time."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from luthier.text.flat import blocks
from luthier.text.pii import addresses, births, contact, money, national, network, secrets
from luthier.text.pii.found import PATTERN_KINDS, Areas, Found, PiiKind, Spans, areas

_FINDERS: dict[PiiKind, Callable[[str, Areas], Spans]] = {
    "url_secret": secrets.url_secrets,
    "secret": secrets.keys,
    "email": contact.emails,
    "mac": network.macs,
    "ip": network.ips,
    "iban": money.ibans,
    "card": money.cards,
    "national_id": national.national_ids,
    "birth_date": births.birth_dates,
    "phone": contact.phones,
    "address": addresses.addresses,
}
"""In the order of their claims; that of national numbers finds `ssn`, too."""
_NEED_DIGITS = frozenset[PiiKind](("iban", "card", "national_id", "birth_date", "phone"))
"""What is never without a digit; an address may do without a number."""


class Marks(NamedTuple):
    """What a look at many texts at once tells of one of them; where it may be so, it is said to be so."""

    digits: bool = True
    keys: bool = True
    """A word that may be a key or a password: a long one, or one with letters and digits."""


ANY = Marks()


def marks(texts: Sequence[str]) -> list[Marks]:
    """The marks of each text."""
    found: list[Marks] = []
    for _, flat in blocks(texts):
        if flat is None:
            found.append(ANY)
            continue
        digits = flat.has("digit")
        keys = (flat.lengths >= secrets.SHORTEST_KEY) | (
            digits & flat.has("letter") & (flat.lengths >= secrets.SHORTEST_NAMED)
        )
        found += map(Marks, (flat.total(digits) > 0).tolist(), (flat.total(keys) > 0).tolist())
    return found


def find(
    text: str, kinds: Collection[PiiKind] = PATTERN_KINDS, more: Sequence[Found] = (), marks: Marks = ANY
) -> list[Found]:
    """Everything of these kinds in a text, in order, without overlaps.

    `more` is what a recogniser of names has found in it: it stands behind what patterns find.
    """
    taken: list[Found] = []
    near = areas(text) if marks.digits else ()
    for kind, finder in _FINDERS.items():
        if kind in _NEED_DIGITS and not marks.digits:
            continue
        if kind == "secret" and not marks.keys and secrets.KEY_BEGIN not in text:
            continue
        if kind in kinds or (kind == "national_id" and "ssn" in kinds):
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
