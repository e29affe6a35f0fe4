"""Names of organisations by a small encoder that was tuned for them (`tuned.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from luthier.pii.span import PiiSpan
from luthier.pii.token_classifier import FineTunedMiniLM, WordSpan, trim_span

CHANGE = Path(__file__).with_name("organisations.safetensors")
_REMEMBERED = 8192
_BRIDGES = frozenset("-'’&./")
_PARTS = re.compile(r",? (?:and|&) |, (?!(?i:inc|ltd|llc|llp|corp|co|plc|gmbh|s\.?a|limited|incorporated|ag|se)\b)")
_EDGES = " ,.;:-'\"()/"
_LONGEST_PLACEHOLDER = 60
_NUMBER = re.compile(r"-\d")
_SURE_IN_SMALL_LETTERS = 0.9
"""What is written small in a text with capitals must be as sure as this."""
_LETTER = re.compile(r"[A-Za-zÀ-ÖØ-öø-žȘșȚț]")


class OrganizationRecognizer:
    """Finds names of organizations with a fine-tuned MiniLM model; the same text always gives the same names."""

    def __init__(self, change: Path = CHANGE) -> None:
        self._tuned = FineTunedMiniLM(change)
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._find)

    def find(self, text: str, at_least: float) -> tuple[tuple[PiiSpan, float], ...]:
        """Organisations in order and apart, each with the highest probability of its words."""
        return self._remembered(text, at_least) if _LETTER.search(text) else ()

    def _find(self, text: str, at_least: float) -> tuple[tuple[PiiSpan, float], ...]:
        words, shares = self._tuned.read(text)
        in_small_letters = text.islower()
        return tuple(
            (PiiSpan(start, end, "organisation", text[start:end]), share)
            for whole, share in _joined(text, words, shares, at_least)
            for start, end in _apart(text, *whole)
            if _may_be_one(text, start, end, sure=in_small_letters or share >= _SURE_IN_SMALL_LETTERS)
        )


def _joined(
    text: str, words: Sequence[WordSpan], shares: Sequence[float], at_least: float
) -> Iterator[tuple[tuple[int, int], float]]:
    """Words above the bar that follow each other in a line, without the marks at their edges."""
    current: tuple[int, int] | None = None
    highest = 0.0
    for index, (word, share) in enumerate(zip(words, shares, strict=True)):
        piece = text[word.start : word.end]
        gap = text[current[1] : word.start] if current else ""
        follows = current is not None and "\n" not in gap and not gap.strip()
        bridge = piece in _BRIDGES and not gap and index + 1 < len(shares) and shares[index + 1] >= at_least
        if (share >= at_least and (current or any(map(str.isalnum, piece)))) or (current and bridge):
            if current and follows:
                current, highest = (current[0], word.end), max(highest, share)
                continue
            if current:
                yield current, highest
            current, highest = (word.start, word.end), share
        elif current:
            yield current, highest
            current = None
    if current:
        yield current, highest


def _may_be_one(text: str, start: int, end: int, *, sure: bool) -> bool:
    """Not the letters of an order's number, part of a placeholder, or small letters of which nobody is sure."""
    piece, before = text[start:end], text[max(0, start - _LONGEST_PLACEHOLDER) : start]
    return not (
        len(_LETTER.findall(piece)) < 2
        or (piece.islower() and not sure)
        or (piece.isupper() and _NUMBER.match(text, end))
        or before.rfind("{{") > before.rfind("}}")
    )


def _apart(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The names of a list; *Stone, Marsh and Hill* are one."""
    parts, at = [], start
    for cut in _PARTS.finditer(text, start, end):
        parts.append((at, cut.start(), cut[0]))
        at = cut.end()
    parts.append((at, end, ""))
    if not any(cut.startswith(", ") for _, _, cut in parts):
        parts = [(start, end, "")]
    index = 0
    while index < len(parts):
        last = index + 2 if _is_firm(text, parts[index : index + 3]) else index
        yield trim_span(text, parts[index][0], parts[last][1], _EDGES)
        index = last + 1


def _is_firm(text: str, parts: Sequence[tuple[int, int, str]]) -> bool:
    """Whether it is three single words as partners write them."""
    single = all(" " not in text[start:end] for start, end, _ in parts)
    return len(parts) == len("ABC") and single and parts[0][2] == ", " and parts[1][2] in (" and ", " & ", ", and ")
