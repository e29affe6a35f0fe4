"""Organisations that many people write of, by a list of their names.

`known_organisations.txt` has an organisation a line, ways to write it behind `|`. `~` stands before what means other
things as well (*Orange*, *Halifax*): it is left to those who weigh what stands around it. `^` stands before what is an
ordinary phrase in small letters (*best buy*).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

LIST = Path(__file__).with_name("known_organisations.txt")

_TOKEN = re.compile(r"\w+|[^\w\s]")
_JOINS_BEFORE, _JOINS_BEHIND = "@/._-#=&\\", "@_/="
_TITLE = re.compile(r"(?<!\w)(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Sir|Herr|Herrn|Frau|Fr|Hr|Hrn|Fam|Familie)\.? $")
_STREET = re.compile(r" (?:Street|St|Road|Rd|Lane|Avenue|Ave|Drive|Way|Close|Court|Square|Place|Platz|Weg|Allee)\b")
_TITLE_REACH = 10
_LEAST_CAPITALS, _LEAST_SMALL = 4, 6
"""Letters of a name that is written in capitals, and of one in small letters."""
_ENDS: Any = None
_WEIGHED, _AS_WRITTEN, _SURE = range(3)
_MARKS = {"~": _WEIGHED, "^": _AS_WRITTEN}


class Known(NamedTuple):
    """Where a name stands, and whether it can hardly mean anything else."""

    start: int
    end: int
    is_sure: bool


def known(text: str) -> Iterator[Known]:
    """Names of the list, in order and apart, the longest at each place."""
    tokens = [(one.start(), one.end(), one[0].replace("’", "'")) for one in _TOKEN.finditer(text)]
    place = 0
    while place < len(tokens):
        behind, found = _longest(text, tokens, place)
        if found is not None:
            yield found
        place = behind


def _longest(text: str, tokens: list[tuple[int, int, str]], place: int) -> tuple[int, Known | None]:
    """The longest name that begins with a token, and the token to go on with."""
    node: Any = _names()
    begin = tokens[place][0]
    behind, found = place + 1, None
    if begin and text[begin - 1] in _JOINS_BEFORE:
        return behind, None
    for at in range(place, len(tokens)):
        start, end, token = tokens[at]
        if at > place and text[tokens[at - 1][1] : start] not in ("", " "):
            break
        node = node.get(token.casefold())
        if node is None:
            break
        ways = node.get(_ENDS, {})
        is_sure = _read_as(text[begin:end].replace("’", "'"), ways)
        if is_sure is not None and not _goes_on(text, end):
            behind, found = at + 1, Known(begin, end, is_sure and not _is_other(text, begin, end))
        elif found is not None and ways and not any(ways.values()):
            behind, found = at + 1, None  # *google pay*, a product, is not read as *google*
    return behind, found


def _read_as(written: str, ways: dict[str, int]) -> bool | None:
    """Whether a name, written so, is sure to be one; None where it is not read as one."""
    if (way := ways.get(_squeezed(written))) is not None:
        return way > _WEIGHED
    letters = sum(map(str.isalpha, written))
    is_known = (written.isupper() and letters >= _LEAST_CAPITALS) or (written.islower() and letters >= _LEAST_SMALL)
    return True if is_known and _SURE in ways.values() else None


def _is_other(text: str, begin: int, end: int) -> bool:
    """Whether it is somebody's surname or a street's name."""
    return _TITLE.search(text, max(0, begin - _TITLE_REACH), begin) is not None or _STREET.match(text, end) is not None


def _goes_on(text: str, end: int) -> bool:
    behind = text[end : end + 2]
    return bool(behind) and (behind[0] in _JOINS_BEHIND or (behind[0] == "." and behind[1:].isalnum()))


def _squeezed(name: str) -> str:
    return "".join(name.split())


@cache
def _names() -> dict[Any, Any]:
    """Tokens in small letters to what may follow; under `_ENDS` the ways to write a name that ends there."""
    tree: dict[Any, Any] = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        for way in line.split("|"):
            mark, name = _MARKS.get(way[0], _SURE), way.lstrip("~^")
            node = tree
            for token in _TOKEN.findall(name):
                node = node.setdefault(token.casefold(), {})
            node.setdefault(_ENDS, {})[_squeezed(name)] = mark
    return tree
