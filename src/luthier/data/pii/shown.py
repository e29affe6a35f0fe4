"""How a find may be shown: one value for all its spellings, and stars in place of what tells."""

from __future__ import annotations

import re

from luthier.pii.patterns import to_ascii_digits
from luthier.pii.span import PiiKind, PiiSpan

NUMBERS: tuple[PiiKind, ...] = ("phone", "card", "iban", "ssn", "national_id")
_KEPT_BY_MASK = 4


def canonical_pii_value(found: PiiSpan) -> str:
    """The value without its dress, so that `0170 / 123` and `0170123` have one tag."""
    if found.kind in NUMBERS:
        return re.sub(r"[^0-9A-Za-z+]", "", to_ascii_digits(found.text)).upper()
    if found.kind in ("email", "mac", "person", "organisation", "address"):
        return " ".join(found.text.casefold().split())
    return found.text


def mask_pii_value(found: PiiSpan) -> str:
    """Stars for all letters and digits, but the last four of numbers."""
    indices = [index for index, char in enumerate(found.text) if char.isalnum()]
    kept = _KEPT_BY_MASK if found.kind in NUMBERS and len(indices) > 2 * _KEPT_BY_MASK else 0
    starred = set(indices[: len(indices) - kept])
    return "".join("*" if index in starred else char for index, char in enumerate(found.text))
