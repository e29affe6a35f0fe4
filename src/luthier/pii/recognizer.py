"""The role recognizer: a model that finds persons, organizations and addresses in texts."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, get_args

from luthier.core.component import Component
from luthier.pii.span import PiiKind, PiiSpan

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


TextPart = Literal["system", "prompt", "answer", "meta", "group"]
"""Parts of a conversation and its columns: its system turn, its last turn, the turns between, columns, the group."""
TEXT_PARTS: tuple[TextPart, ...] = get_args(TextPart)


class Recognizer(Component):
    """A model that finds what no pattern can: names."""

    role: ClassVar[str] = "recogniser"
    home: ClassVar[str] = "luthier.pii.recognizers"
    finds: ClassVar[tuple[PiiKind, ...]] = ("person",)
    """The kinds that it knows."""
    seconds_a_byte: ClassVar[float] = 0.0
    """About what it takes of one core of a common server."""

    def at(self, recipe_dir: Path) -> Recognizer:
        """The recogniser as it works for a recipe in this folder, where the path of its model starts."""
        return self

    def find_names(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        """What `recognise` finds in each text when it reads no prefixes of replies (`WG: `), which are no names."""
        read = self.recognise([blank_reply_prefixes(text) for text in texts])
        return [
            [pii_span._replace(text=text[pii_span.start : pii_span.end]) for pii_span in found]
            for text, found in zip(texts, read, strict=True)
        ]

    @abstractmethod
    def recognise(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        """What stands in each text, in order, without overlaps; what is found in one never depends on the others."""
