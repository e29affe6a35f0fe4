"""Find names of organizations by rules and by a list of known names.

The rules (`organizations.toml`) use legal forms, words of business, context words and the line of a name in a
letterhead. No model is needed.

`known_organisations.txt` has one organization a line, with variants after `|`. `~` marks a name with other meanings
(*Orange*, *Halifax*), which needs context. `^` marks a name that is an ordinary phrase in lower case (*best buy*).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from luthier.pii.rules import RuleTable
from luthier.pii.span import PiiSpan

LIST = Path(__file__).with_name("known_organisations.txt")
_RULES = RuleTable(Path(__file__).with_name("organizations.toml"))
PATTERNS = _RULES.patterns
_NAMING = ("legal_forms", "institution_of", "employed_at", "dealt_with", "called", "before_business", "office_of")
"""Patterns that find a name wherever it stands; the whole match is one where no group is called so."""
_NO_NAME = _RULES.words("no_organization")
_JOINS_BEFORE, _JOINS_BEHIND = "@/._-#=&\\", "@_/="
_TITLE_REACH, _HEAD_REACH = 10, 60
_SHORTEST, _LONGEST_HEAD = 2, 4
_LEAST_CAPITALS, _LEAST_SMALL = 4, 6
"""Letters of a name that is written in capitals, and of one in small letters."""
_ENDS: Any = None
_WEIGHED, _AS_WRITTEN, _SURE = range(3)
_MARKS = {"~": _WEIGHED, "^": _AS_WRITTEN}


class OrganizationMatch(NamedTuple):
    """Where a name stands, and whether it can hardly mean anything else."""

    start: int
    end: int
    is_sure: bool


def find_listed_organizations(text: str) -> Iterator[OrganizationMatch]:
    """Names of the list, in order and apart, the longest at each place."""
    tokens = [(entry.start(), entry.end(), entry[0].replace("’", "'")) for entry in PATTERNS["token"].finditer(text)]
    index = 0
    while index < len(tokens):
        index, match = _longest(text, tokens, index)
        if match is not None:
            yield match


def _longest(text: str, tokens: list[tuple[int, int, str]], index: int) -> tuple[int, OrganizationMatch | None]:
    """The token to go on with, and the longest name that begins with a token."""
    node: Any = _names()
    begin = tokens[index][0]
    behind, found = index + 1, None
    if begin and text[begin - 1] in _JOINS_BEFORE:
        return behind, None
    for at in range(index, len(tokens)):
        start, end, token = tokens[at]
        if at > index and text[tokens[at - 1][1] : start] not in ("", " "):
            break
        node = node.get(token.casefold())
        if node is None:
            break
        ways = node.get(_ENDS, {})
        is_sure = _read_as(text[begin:end].replace("’", "'"), ways)
        if is_sure is not None and not _goes_on(text, end):
            behind, found = at + 1, OrganizationMatch(begin, end, is_sure and not _is_other(text, begin, end))
        elif found is not None and ways and not any(ways.values()):
            behind, found = at + 1, None  # *google pay*, a product, is not read as *google*
    return behind, found


def _read_as(written: str, ways: dict[str, int]) -> bool | None:
    """Whether a name, written so, is sure to be one; None where it is not read as one."""
    if (way := ways.get("".join(written.split()))) is not None:
        return way > _WEIGHED
    letters = sum(map(str.isalpha, written))
    is_known = (written.isupper() and letters >= _LEAST_CAPITALS) or (written.islower() and letters >= _LEAST_SMALL)
    return True if is_known and _SURE in ways.values() else None


def _is_other(text: str, begin: int, end: int) -> bool:
    """Whether it is somebody's surname or a street's name."""
    title = PATTERNS["title_before"].search(text, max(0, begin - _TITLE_REACH), begin)
    return title is not None or PATTERNS["street_behind"].match(text, end) is not None


def _goes_on(text: str, end: int) -> bool:
    behind = text[end : end + 2]
    return bool(behind) and (behind[0] in _JOINS_BEHIND or (behind[0] == "." and behind[1:].isalnum()))


@cache
def _names() -> dict[Any, Any]:
    """Tokens in small letters to what may follow; under `_ENDS` the ways to write a name that ends there."""
    tree: dict[Any, Any] = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        for way in line.split("|"):
            mark, name = _MARKS.get(way[0], _SURE), way.lstrip("~^")
            node = tree
            for token in PATTERNS["token"].findall(name):
                node = node.setdefault(token.casefold(), {})
            node.setdefault(_ENDS, {})["".join(name.split())] = mark
    return tree


def find_organizations(text: str, *, listed: bool = True) -> list[PiiSpan]:
    """Organisations, in order and apart, those of the list among them unless they are not asked for."""
    by_list = (
        (organization.start, organization.end)
        for organization in (find_listed_organizations(text) if listed else ())
        if organization.is_sure
    )
    pii_spans: list[PiiSpan] = []
    for start, end in sorted((*by_list, *_spans(text)), key=lambda span: (span[0], -span[1])):
        if not pii_spans or start >= pii_spans[-1].end:
            pii_spans.append(PiiSpan(start, end, "organisation", text[start:end]))
    return pii_spans


def _spans(text: str) -> Iterator[tuple[int, int]]:
    for pattern in (PATTERNS[name] for name in _NAMING):
        group = "name" if "name" in pattern.groupindex else 0
        for match in pattern.finditer(text):
            start, end = match.span(group)
            start = _without_small_words(text, start, end)
            if end - start >= _SHORTEST:
                yield start, end
                yield from _siblings(text, end)
    if text.count("\n") > 1:
        yield from _lines(text)


def _siblings(text: str, end: int) -> Iterator[tuple[int, int]]:
    """What an organisation is named together with: *Acme Ltd, Bolt and Crate*."""
    more, at = PATTERNS["siblings"].match(text, end), end
    for name in PATTERNS["sibling_split"].split(more[0])[1:] if more else ():
        at = text.index(name, at)
        yield at, at + len(name)
        at += len(name)


def _without_small_words(text: str, start: int, end: int) -> int:
    """Where a name begins when words that begin sentences are no part of it; its end when nothing is left."""
    while start < end:
        word = re.match(r"[^\s,]+", text[start:end])
        if word is None or word[0].rstrip(".") not in _NO_NAME:
            return start
        start += len(word[0])
        start += len(text[start:end]) - len(text[start:end].lstrip(" ,"))
    return end


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """In the head of a letter, the line between whom it is to and the house's number."""
    block: list[re.Match[str]] = []
    for line in PATTERNS["letterhead_line"].finditer(text):
        if block and line.start() - block[-1].end() > 1:
            block = []
        block.append(line)
        is_last = PATTERNS["numbered_line"].match(text, min(len(text), line.end() + 1)) is not None
        head = text[max(0, block[0].start() - _HEAD_REACH) : block[0].start()]
        if is_last and _SHORTEST <= len(block) <= _LONGEST_HEAD and not any(map(str.isdigit, head)):
            middle = block[-2]["name"] if len(block) > _SHORTEST else ""
            chosen = block[-2] if middle and not _says_what_one_does(middle) else block[-1]
            yield chosen.span("name")


def _says_what_one_does(line: str) -> bool:
    """A job is written in small letters but for its first."""
    return any(word[:1].islower() and word not in ("and", "of", "the", "for") for word in line.split())
