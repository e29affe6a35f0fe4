"""No text makes a pattern or an operator slow: time grows with the length, whatever the text."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import luthier.data
import luthier.pii
from luthier.chat.messages import Message
from luthier.core.component import components_by_kind
from luthier.data.operator import Operator
from luthier.data.row import Row
from luthier.data.suggest.trial import apply_operator_in_memory
from tests.linear import TRIES, seconds

CHARS = (100, 400, 1_500, 12_000)
"""Short ones first: what grows with the third power would never finish the long ones, and what a count bounds (*five
words of 15*) can take seconds for a hundred characters and no longer for more."""
SUSPECT_S = 0.01
"""A linear pattern needs a millisecond for so many characters; one that needs so long is looked at again."""
PIECES = (
    "a", " ", "\n", "\t", "-", ">", "@", "a@", "1", "1.", "1,", "1-", "1 ", ":", "://", "http://a", ".", "..", '"', "'",
    "<", "<a ", "<a\n", "<script", "</script", "&", "&#", "&amp", "[", "[b]", "[/b]", "[a|", "{", "{code}", "{code:",
    "*", "**a", "`", "!", "!a.png|", "|", "#", "# ", "h1. ", "-- \n", "On 1 wrote:\n", "> On 1 a wrote:\n", "From: a\n",
    "From: a\nTo: b\n", "é", "Ã©", "â€", "eyJ", "eyJa.", "sk-", "AKIA", "a.", "+1 ", "(", "(1)", "x=", "\u200b", " \n",
    "\n ", "Kind regards\n", "word ", "2025-02-", "3 Feb ", "1'234", "5 kg ", "DE89 ", "ab:", "0:", "password is ",
)  # fmt: skip


_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)
FIVE_WORDS = r"[A-Z][\w.-]{0,15}(?:[ -][\w.-]{1,15}){0,4} \d$"
SHORT = ("a", "1", " ", "\n", "a@", "1.", "<a ", "&#", "[a", "{a:", "://", "-", "A1", "é")


def patterns() -> dict[str, re.Pattern[str]]:
    """Every compiled pattern of the data room and of the finders of personal data, also those in tables."""
    found: dict[str, re.Pattern[str]] = {}
    modules = [
        *pkgutil.walk_packages(luthier.data.__path__, "luthier.data."),
        *pkgutil.walk_packages(luthier.pii.__path__, "luthier.pii."),
    ]
    for info in modules:
        for value in list(vars(importlib.import_module(info.name)).values()):
            several = value.values() if isinstance(value, dict) else value
            for one in several if isinstance(value, list | tuple | dict) else [value]:
                if isinstance(one, re.Pattern) and isinstance(one.pattern, str):
                    found.setdefault(one.pattern, one)
                elif isinstance(one, tuple):
                    found.update({each.pattern: each for each in one if isinstance(each, re.Pattern)})
    return found


def _sample(nodes: Any) -> str:
    """A short text that most of a parsed pattern matches."""
    return "".join(_sample_of(code, value) for code, value in nodes)


def _sample_of(code: Any, value: Any) -> str:
    if code in _REPEATS:
        return _sample(value[2]) * max(1, value[0])
    makers: dict[Any, Callable[[Any], str]] = {
        codes.LITERAL: chr,
        codes.NOT_LITERAL: lambda one: "b" if one == ord("a") else "a",
        codes.ANY: lambda one: "a",
        codes.IN: lambda one: "a" if one[0][0] is codes.NEGATE else _sample_of(*one[0]),
        codes.RANGE: lambda one: chr(one[0]),
        codes.CATEGORY: lambda one: {codes.CATEGORY_DIGIT: "1", codes.CATEGORY_SPACE: " "}.get(one, "a"),
        codes.SUBPATTERN: lambda one: _sample(one[3]),
        codes.BRANCH: lambda one: _sample(one[1][0]),
    }
    return makers[code](value) if code in makers else ""


def _pumps(nodes: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """For everything that is repeated: what stands before it, and one round of it; of a set, each sign it lists."""
    for code, value in nodes:
        if code in _REPEATS:
            yield before, _sample(value[2])
            yield from ((before, sign) for sign in _signs(value[2]))
            yield from _pumps(value[2], before)
        elif code is codes.SUBPATTERN:
            yield from _pumps(value[3], before)
        elif code is codes.BRANCH:
            for branch in value[1]:
                yield from _pumps(branch, before)
        before += _sample_of(code, value)


def _signs(nodes: Any) -> list[str]:
    """The single signs of what is one set, such as the dash in `[\\w.-]`: another part may want them as well."""
    members = nodes[0][1] if len(nodes) == 1 and nodes[0][0] is codes.IN else []
    return [] if (codes.NEGATE, None) in members else [chr(value) for code, value in members if code is codes.LITERAL]


def attacks(pattern: re.Pattern[str]) -> set[tuple[str, str]]:
    """Beginnings, and what repeated behind them makes long texts that a pattern nearly matches again and again."""
    nodes = parser.parse(pattern.pattern, pattern.flags)
    whole = _sample(nodes)
    found = {("", piece) for piece in (*SHORT, whole, whole[:-1])}
    for before, again in _pumps(nodes):
        found |= {(before, again), ("", before + again)}
    return {(before, again) for before, again in found if again}


def _text(attack: tuple[str, str], chars: int) -> str:
    before, again = attack
    return before + again * (chars // len(again)) + "\x00"


def growth(pattern: re.Pattern[str], attack: tuple[str, str], *, anywhere: bool = True) -> float:
    """How many times as long a search takes for four times the text, where that is worth a look; else 1.

    Not `anywhere`: the pattern is only asked whether a text begins with it, or is it.
    """
    search = _search_s if anywhere else _match_s
    for chars in CHARS:
        took = search(pattern, _text(attack, chars))
        if took < SUSPECT_S:
            continue
        short = min(search(pattern, _text(attack, chars // 4)) for _ in range(3))
        for _ in range(4):  # a machine that others slow for a while makes any one try longer, and none shorter
            if took <= 8 * short:
                break
            took = min(took, search(pattern, _text(attack, chars)))
        if took > 8 * short:
            return took / short
    return 1.0


def _search_s(pattern: re.Pattern[str], text: str) -> float:
    return seconds(lambda: sum(1 for _ in pattern.finditer(text)))


def _match_s(pattern: re.Pattern[str], text: str) -> float:
    return seconds(lambda: (pattern.match(text), pattern.fullmatch(text)))


@pytest.mark.parametrize("pattern", patterns().values(), ids=lambda pattern: str(pattern.pattern)[:40])
def test_no_text_makes_a_pattern_slow(pattern: re.Pattern[str]) -> None:
    for attack in sorted(attacks(pattern)):
        times = growth(pattern, attack)
        assert times == 1, f"{times:.0f} times as long for 4 times the text: {_text(attack, 60)!r}"


@pytest.mark.parametrize("slow", [r"\d+@", r"<[^>]*>", r"\s+\n", r"\s*\(*\s*select", FIVE_WORDS])
def test_a_slow_pattern_would_be_found(slow: str) -> None:
    pattern = re.compile(slow)
    assert any(growth(pattern, attack) > 8 for attack in sorted(attacks(pattern)))


def _rows(chars: int) -> list[Row]:
    return [
        Row(n, f"{n:016x}", "csv", "f.csv", n + 2, "chat",
            (Message(role="user", content=piece * (chars // len(piece))), Message(role="assistant", content=f"a{n}")))
        for n, piece in enumerate(PIECES)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", sorted(components_by_kind(Operator)))
def test_no_text_makes_an_operator_slow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PII_KEY", "a key for tests")
    operator = Operator.parse(kind)
    apply_operator_in_memory(operator, _rows(200))  # models and lists are loaded
    short, long = _rows(1500), _rows(12_000)
    quick = max(0.02, min(seconds(lambda: apply_operator_in_memory(operator, short)) for _ in range(2)))
    linear = any(seconds(lambda: apply_operator_in_memory(operator, long)) < 24 * quick for _ in range(TRIES))
    assert linear, f"8 times the text takes more than 24 times {quick:.3f} s"
