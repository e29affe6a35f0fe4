"""Who finds names: a model that reads texts and marks persons, organisations and addresses in them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, get_args

from luthier.core.component import Component
from luthier.pii.reply_prefixes import blank_reply_prefixes
from luthier.pii.span import PiiKind, PiiSpan

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
