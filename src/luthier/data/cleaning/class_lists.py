"""Lists of classes in a system prompt, kept to the classes that are left when spellings are brought together."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

_AND = r"(?:and|or|und|oder|et|ou|y|o)"
_S, _SS = r"\s{0,32}", r"\s{1,32}"
_BETWEEN = re.compile(
    rf"""["'’”»`*)\]]{{0,3}}{_S}(?:[,;/|•·]{_S}(?:{_AND}{_SS})?|(?<=\s){_AND}{_SS}|&{_S}|(?<=\n))"""
    rf"""{_S}(?:[-*•]{_SS}|\d{{1,3}}[.):]{_S})?["'‘“„«`*(\[]{{0,3}}"""
)
"""What may stand between two classes of a list: a comma, a word such as `or`, a line with its bullet or number."""
_LONGEST_BETWEEN = 32


class ClassListEdit(NamedTuple):
    """A list of classes in a text, and the same with the classes that are left."""

    start: int
    before: str
    after: str

    @property
    def end(self) -> int:
        """Where the list ends."""
        return self.start + len(self.before)


class _Item(NamedTuple):
    start: int
    end: int
    name: str


def edit_class_lists(text: str, meant: Mapping[str, str], classes: Collection[str]) -> list[ClassListEdit]:
    """The lists of a text that name classes which are written otherwise now, and what becomes of them.

    `meant` has each class that is not written any more, with the one that is. Two names that stand side by side are a
    list; a name on its own in a sentence is left alone.
    """
    names = frozenset(name for label in (*classes, *meant, *meant.values()) if (name := label.strip()))
    new = {old.strip(): name.strip() for old, name in meant.items() if old.strip() != name.strip()}
    list_edits: list[ClassListEdit] = []
    for run in _runs(text, names):
        after = _without(text, run, new)
        before = text[run[0].start : run[-1].end]
        if after != before:
            list_edits.append(ClassListEdit(run[0].start, before, after))
    return list_edits


def find_names_in_text(text: str, names: Collection[str]) -> list[str]:
    """Those of some names that stand in a text as words."""
    return sorted({item.name for item in _items(text, frozenset(filter(None, map(str.strip, names))))})


def _without(text: str, run: Sequence[_Item], meant: Mapping[str, str]) -> str:
    """A list with every class once, in the order in which they stand, and its separators as they were."""
    own = {item.name for item in run if item.name not in meant}
    kept: list[str] = []
    for item in run:
        name = meant.get(item.name, item.name)
        if name not in kept and (item.name == name or name not in own):
            kept.append(name)
    between = [text[entry.end : two.start] for entry, two in pairwise(run)]
    if any(map(str.isalpha, between[-1])):  # the `or` before the last one
        between[len(kept) - 2] = between[-1]
    between = between[: len(kept) - 1]
    return "".join(part for pair in zip(kept, [*between, ""], strict=True) for part in pair)


def _runs(text: str, names: frozenset[str]) -> Iterator[list[_Item]]:
    """Two classes or more with nothing but separators between them."""
    run: list[_Item] = []
    for item in _items(text, names):
        if run and not _are_neighbors(text, run[-1], item):
            if len(run) > 1:
                yield run
            run = []
        run.append(item)
    if len(run) > 1:
        yield run


def _are_neighbors(text: str, one: _Item, other: _Item) -> bool:
    return other.start - one.end <= _LONGEST_BETWEEN and bool(_BETWEEN.fullmatch(text, one.end, other.start))


def _items(text: str, names: frozenset[str]) -> list[_Item]:
    return [_Item(found.start(), found.end(), found[0]) for found in _pattern(names).finditer(text)] if names else []


@lru_cache(maxsize=8)
def _pattern(names: frozenset[str]) -> re.Pattern[str]:
    """Any of some names as whole words, the longest first."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
