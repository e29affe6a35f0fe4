"""No text makes any pattern of the code base slow, in the way in which it is used.

`tests/data/test_linear_time.py` holds the patterns of the data room, one test each; these are all others.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import luthier
from tests.data.test_linear_time import attacks, growth, patterns

SOURCE = Path(luthier.__file__).parent
_VERBS = frozenset({"search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"})
_ELSEWHERE = ("luthier.core.db.migrations", "luthier.__main__")
"""Modules that only their own programs can import."""


def _compiled(value: Any, depth: int = 0) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        if isinstance(value.pattern, str):
            yield value
    elif isinstance(value, dict | list | tuple | set | frozenset) and depth < 3:
        for one in value.values() if isinstance(value, dict) else value:
            yield from _compiled(one, depth + 1)


def _used(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names and what is called on them: `_WORD`, `match`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in _VERBS:
            yield node.value.id, node.attr


def _inline(tree: ast.Module) -> Iterator[tuple[re.Pattern[str], str]]:
    """Patterns that are written where they are used: `re.sub(r"…", …)`."""
    for name, call in ((node.func, node) for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id == "re":
            first = call.args[0] if call.args else None
            if name.attr in _VERBS and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield re.compile(first.value), name.attr


def _all() -> dict[tuple[str, bool], tuple[re.Pattern[str], str]]:
    """Every pattern that the data room's own test does not hold, with whether it may begin anywhere, and its module."""
    known, found = set(patterns()), {}
    for info in pkgutil.walk_packages(luthier.__path__, "luthier."):
        if info.name.startswith(_ELSEWHERE):
            continue
        module = importlib.import_module(info.name)
        tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
        verbs: dict[str, set[str]] = {}
        for name, verb in _used(tree):
            verbs.setdefault(name, set()).add(verb)
        for name, value in vars(module).items():
            anywhere = not verbs.get(name) or not verbs[name] <= {"match", "fullmatch"}
            for pattern in _compiled(value):
                found.setdefault((pattern.pattern, anywhere), (pattern, info.name))
        for pattern, verb in _inline(tree):
            found.setdefault((pattern.pattern, verb not in ("match", "fullmatch")), (pattern, info.name))
    return {key: value for key, value in found.items() if key[0] not in known}


@pytest.mark.slow
def test_no_text_makes_any_pattern_slow() -> None:
    found = _all()
    assert len(found) > 80
    slow = []
    for (_, anywhere), (pattern, module) in found.items():
        for attack in sorted(attacks(pattern)):
            if growth(pattern, attack, anywhere=anywhere) > 1:
                slow.append((module, pattern.pattern, attack))
                break
    assert slow == []
