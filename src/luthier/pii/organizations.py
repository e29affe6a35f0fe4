"""Find names of organizations by rules and by a list of known names.

The rules use legal forms, words of business, context words and the line of a name in a letterhead. No model is needed;
`benchmarks/results` compares the models of the package index, and none of them finds organizations well.

`known_organisations.txt` has one organization a line, with variants after `|`. `~` marks a name with other meanings
(*Orange*, *Halifax*), which needs context. `^` marks a name that is an ordinary phrase in lower case (*best buy*).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from luthier.pii.span import PiiSpan

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


class OrganizationMatch(NamedTuple):
    """Where a name stands, and whether it can hardly mean anything else."""

    start: int
    end: int
    is_sure: bool


def find_listed_organizations(text: str) -> Iterator[OrganizationMatch]:
    """Names of the list, in order and apart, the longest at each place."""
    tokens = [(one.start(), one.end(), one[0].replace("’", "'")) for one in _TOKEN.finditer(text)]
    index = 0
    while index < len(tokens):
        behind, found = _longest(text, tokens, index)
        if found is not None:
            yield found
        index = behind


def _longest(text: str, tokens: list[tuple[int, int, str]], index: int) -> tuple[int, OrganizationMatch | None]:
    """The longest name that begins with a token, and the token to go on with."""
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


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CAP = r"[A-ZÀ-ÞŁŚŻ](?:[\w'’&.-]{0,24}\w|\.(?=[ A-Z]))?"
_JOINED = rf"{_CAP}(?:(?: &| and| und| of| et| y| de| the)? {_CAP}){{0,4}}"
_LEGAL = (
    r"(?:Ltd|LTD|ltd|Inc|inc|INC|LLC|LLP|PLC|plc|Corp|Corporation|Incorporated|Limited|GmbH|mbH|AG|KG|OHG|KGaA|SE|SAS"
    r"|SARL|SA|S\.A\.|S\.L\.|S\.p\.A\.|SpA|S\.r\.l\.|Srl|BV|B\.V\.|NV|N\.V\.|AB|Oy|Oyj|ApS|A/S|ASA|Lda|Ltda"
    r"|Sp\. z o\.o\.|Pty)"
)
_DOES = (
    r"(?:Group|Holdings?|Technolog(?:y|ies)|Solutions|Systems|Services|Software|Consulting|Partners|Associates|Insurance"
    r"|(?<!West )(?<!Left )(?<!Right )Bank"
    r"|University|College|Institute|Foundation|Association|Hospital|Clinic|Ministry|Agency|Council|Labs|Laboratories"
    r"|Industries|Motors|Airlines|Airways|Pharmaceuticals|Ventures|Networks|Robotics|Analytics|Media|Energy"
    r"|Logistics|Enterprises|Sons|Brothers|Unlimited|Records|Studios|Telecom|Electronics|Foods|Stores|Securities|Society)"
)
_FORMS = re.compile(
    rf"(?<![\w.]){_JOINED},? {_LEGAL}(?!\w)\.?(?: ?& ?Co\.? ?KG)?|(?<![\w.]){_JOINED} {_DOES}(?![\w'’])"
)
_OF = re.compile(
    r"(?<!\w)(?i:university|bank|department|ministry|institute|college|church|bureau) of (?:the )?"
    rf"{_CAP}(?: (?:of )?{_CAP}){{0,3}}"
)
_NAMED = rf" (?:the )?(?P<name>{_CAP}, {_CAP} and {_CAP}|{_JOINED})"
_END = r"(?=(?: (?:is|was|as|in|and|on|for|but|to)\b|[,.;:!?\n]|$))"
_BEHIND = re.compile(
    r"(?<!\w)(?i:(?:works?|worked|working|employed|job|interned|internship|years?) (?:for|at)|later became"
    r"|(?:employee|manager|director|founder|ceo|cto|cfo|president|chairman|headquarters|offices?|website|subsidiary|shares"
    rf"|customers?|address) of){_NAMED}{_END}"
)
_DEALT = re.compile(
    r"(?<!\w)(?i:account (?:with|at)|bank(?:ing)? with|insured (?:with|by)|contract with|subscription (?:with|to)"
    r"|(?:bought|purchased|ordered) (?:\w{1,15} ){0,4}from|(?:employed|acquired|owned|sponsored|manufactured|hired"
    rf"|issued|funded) by|merge[dr] with|career at|position (?:at|with)|role at){_NAMED}{_END}"
)
_CALLED = re.compile(
    r"(?<!\w)(?i:company|firm|employer|start-?up|supplier|vendor|retailer|insurer) (?:called |named )?"
    rf"(?P<name>{_JOINED})"
)
_BEFORE = re.compile(
    rf"(?<![\w.])(?:The |the )?(?P<name>{_CAP}, {_CAP} and {_CAP}|{_JOINED})(?:['’]s)? "
    r"(?:offices?|headquarters|website|shareholders|employees|subsidiary"
    r"|(?:has )?(?:announced|invested|acquired|launched|employs|merged|sells)"
    r"|is an? (?:\d{3}\(c\)\d|company|firm|start-?up|non-?profit|charity|corporation|business|bank|manufacturer))(?!\w)"
)
_OFFICE = re.compile(
    r"(?<!\w)[Tt]he (?!(?:head|main|post|ticket|box|new|old|front|back|branch|local|nearest|doctor|tax|whole|other)\b)"
    r"(?P<name>\w[\w'’.-]{1,25}(?: [\w'’&.-]{1,25}){0,3}) office is (?:at|in|located)(?!\w)"
)
_MORE = re.compile(rf"(?:, (?:{_CAP}(?: {_CAP}){{0,3}})){{0,3}},? (?:and|&) {_CAP}(?: {_CAP}){{0,3}}(?=[.,;:!?\n]|$)")
_SPLIT = re.compile(r"^, |, | and | & ")
_LINE = re.compile(r"^\W{0,5}(?P<name>[^\W\d_]{1,26}(?:[ ,&'’.-]{1,3}\w[^\W\d_]{0,25}){0,5})\.?[ ]{0,3}$", re.MULTILINE)
_NUMBERED = re.compile(r"\W{0,6}(?:\d|PSC |Unit \d|P\.? ?O\.? ?Box|USNS |USS )")
_NO_NAME = _words("""
and & und et y of
I He She It We They The This That There A An In On At For My Your Our His Her Their Its And But Or So If When Please
Dear Mr Mrs Ms Dr Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July
August September October November December English German French Spanish Italian Customer Technical What Which Where
How
""")
_SHORTEST = 2
_LONGEST_HEAD = 4
_HEAD_REACH = 60


def find_organizations(text: str, *, listed: bool = True) -> list[PiiSpan]:
    """Organisations, in order and apart, those of the list among them unless they are not asked for."""
    by_list = ((one.start, one.end) for one in (find_listed_organizations(text) if listed else ()) if one.is_sure)
    found: list[PiiSpan] = []
    for start, end in sorted((*by_list, *_spans(text)), key=lambda one: (one[0], -one[1])):
        if not found or start >= found[-1].end:
            found.append(PiiSpan(start, end, "organisation", text[start:end]))
    return found


def _spans(text: str) -> Iterator[tuple[int, int]]:
    for pattern in (_FORMS, _OF, _BEHIND, _DEALT, _CALLED, _BEFORE, _OFFICE):
        group = "name" if "name" in pattern.groupindex else 0
        for one in pattern.finditer(text):
            start, end = one.span(group)
            start = _without_small_words(text, start, end)
            if end - start >= _SHORTEST:
                yield start, end
                yield from _siblings(text, end)
    if text.count("\n") > 1:
        yield from _lines(text)


def _siblings(text: str, end: int) -> Iterator[tuple[int, int]]:
    """What an organisation is named together with: *Acme Ltd, Bolt and Crate*."""
    more = _MORE.match(text, end)
    if more is None:
        return
    at = end
    for name in _SPLIT.split(more[0])[1:]:
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
    for line in _LINE.finditer(text):
        if block and line.start() - block[-1].end() > 1:
            block = []
        block.append(line)
        is_last = _NUMBERED.match(text, min(len(text), line.end() + 1)) is not None
        if is_last and _SHORTEST <= len(block) <= _LONGEST_HEAD and not _has_digit(text, block[0].start()):
            middle = block[-2]["name"] if len(block) > _SHORTEST else ""
            chosen = block[-2] if middle and not _says_what_one_does(middle) else block[-1]
            yield chosen.span("name")


def _has_digit(text: str, before: int) -> bool:
    return any(map(str.isdigit, text[max(0, before - _HEAD_REACH) : before]))


def _says_what_one_does(line: str) -> bool:
    """A job is written in small letters but for its first."""
    return any(word[:1].islower() and word not in ("and", "of", "the", "for") for word in line.split())
