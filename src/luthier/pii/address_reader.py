"""Whole postal addresses by a small encoder that was tuned for them (`tuned.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from luthier.pii.span import PiiSpan
from luthier.pii.token_classifier import FineTunedMiniLM, trim_span

CHANGE = Path(__file__).with_name("addresses.safetensors")
_BELONGS = 0.5
"""From this probability on a word belongs to an address beside it."""
_EDGES = " ,.;:-'\"()/|<>[]{}*=\n\t"
_SHORTEST = 6
_REMEMBERED = 8192


class AddressRecognizer:
    """Finds postal addresses with a fine-tuned MiniLM model; the same text always gives the same addresses."""

    def __init__(self, change: Path = CHANGE) -> None:
        self._tuned = FineTunedMiniLM(change)
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._find)

    def find(self, text: str, at_least: float) -> tuple[PiiSpan, ...]:
        """Addresses in order and apart; each has a word that is one's part with this probability at least."""
        return self._remembered(text, at_least) if any(map(str.isdigit, text)) else ()

    def _find(self, text: str, at_least: float) -> tuple[PiiSpan, ...]:
        return tuple(
            PiiSpan(start, end, "address", text[start:end])
            for start, end in (trim_span(text, *span, _EDGES) for span in self._spans(text, at_least))
            if _may_be_one(text[start:end])
        )

    def _spans(self, text: str, at_least: float) -> Iterator[tuple[int, int]]:
        """Words that belong together, where one of them is sure."""
        words, shares = self._tuned.read(text)
        start, end, highest = 0, 0, 0.0
        for word, share in zip(words, shares, strict=True):
            if share >= _BELONGS:
                start = start if highest else word.start
                end, highest = word.end, max(highest, share)
                continue
            if highest >= at_least:
                yield start, end
            highest = 0.0
        if highest >= at_least:
            yield start, end


def _may_be_one(piece: str) -> bool:
    return len(piece) >= _SHORTEST and any(map(str.isdigit, piece)) and any(map(str.isalpha, piece))
