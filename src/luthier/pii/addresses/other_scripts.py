"""Addresses in other scripts than Latin; few texts need their patterns, which take long to compile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from luthier.pii.rules import RuleTable
from luthier.pii.span import CandidateSpan, Spans

PATTERNS = RuleTable(Path(__file__).with_name("other_scripts.toml")).patterns
_MOST_PARTS = 6
_LEFT_REACH, _CODE_REACH = 70, 12


def find_non_latin_addresses(text: str) -> Spans:
    """Addresses in one of these scripts."""
    yield from _japanese(text)
    yield from _chinese(text)
    for script in ("korean", "cyrillic", "greek", "hebrew", "arabic"):
        yield from _with_parts(text, script)


def _with_parts(text: str, script: str) -> Iterator[CandidateSpan]:
    """Streets with what follows them, and, in Cyrillic, with the code and the town before them."""
    right = PATTERNS.get(f"{script}_right")
    for found in PATTERNS[script].finditer(text):
        start, end = found.span()
        for _ in range(_MOST_PARTS):
            if not (right and (more := right.match(text, end))):
                break
            end = more.end()
        match = PATTERNS["sentence_begin"].match(text, start)
        start = match.end() if match and match.end() < end else start
        before = text[max(0, start - _LEFT_REACH) : start] if script == "cyrillic" else ""
        left = PATTERNS["cyrillic_left"].search(before)
        yield CandidateSpan(start - (len(left[0]) if left else 0), end)


def _japanese(text: str) -> Iterator[CandidateSpan]:
    for match in PATTERNS["japanese"].finditer(text):
        head = match["head"]
        town = PATTERNS["japanese_place"].search(head)
        part = PATTERNS["japanese_part"].search(head if town else head[1:])
        if part and (town or PATTERNS["part_of_town"].search(match["number"])):
            start = match.end("head") - len(town[0] if town else head)
            yield CandidateSpan(_with_code(text, start), match.end())


def _chinese(text: str) -> Iterator[CandidateSpan]:
    for match in PATTERNS["chinese"].finditer(text):
        head = match["head"]
        town = PATTERNS["chinese_place"].search(head)
        begins = [entry.end() for entry in PATTERNS["chinese_begin"].finditer(head)]
        at = town.start() if town else max((begin for begin in begins if begin < len(head) - 2), default=0)
        yield CandidateSpan(_with_code(text, match.start() + at), match.end())


def _with_code(text: str, start: int) -> int:
    """Where an address begins that a post code may stand before."""
    code = PATTERNS["east_code"].search(text[max(0, start - _CODE_REACH) : start])
    return start - len(code[0]) if code else start
