"""Prefixes that mail programs put before a subject: `WG:`, `AW:`, `Fwd:`. They are no names, and a model that reads one
takes the word behind it for a name, too."""

from __future__ import annotations

import re

_REPLIES = "re|res|rif|ref|aw|antw|antwort|sv|vs|bls|odp|odg|ynt"
_PASSED_ON = "fw|fwd|wg|weitergeleitet|tr|rv|enc|pd|vb|vl|doorst|ilt"
_SUBJECTS = "betreff|betr|subject|objet|asunto|oggetto|onderwerp|temat|ämne|emne|aihe|assunto"
_PREFIX = re.compile(
    rf"(?<![\w@.-])(?:(?P<plain>{_REPLIES}|{_PASSED_ON}|{_SUBJECTS})|[ir])"
    r"(?:[\[(]\d{1,3}[\])])?[ \u00a0]?:(?![\w/])",
    re.IGNORECASE,
)
"""As Outlook, Thunderbird, Gmail and Notes write them in twelve languages, with the count of replies where there is one
(`Re[2]:`); and what a subject's field is called."""
_FIELD_BEGINS = "\n\t|;,:"
"""What stands before the single letters of Italian, which are much else within a line; or the text's beginning."""
_GAP = 4


def blank_reply_prefixes(text: str) -> str:
    """A text of the same length with spaces in place of prefixes: what is found in it stands where it stood."""
    return _PREFIX.sub(lambda found: " " * len(found[0]) if _is_prefix(text, found) else found[0], text)


def _is_prefix(text: str, found: re.Match[str]) -> bool:
    before = text[max(0, found.start() - _GAP) : found.start()].rstrip(" ")
    return found["plain"] is not None or before[-1:] in _FIELD_BEGINS
