"""Texts inside nested values: where each stands, by a JSON pointer (RFC 6901), and the value with one replaced.

The name of an entry is pointed at by its place: `/owners/#0` is what the first entry of `owners` is called. A name that
begins with such a sign has `~2` in its stead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

_PLAIN_LENGTH, _PLAIN_DIGITS = 24, 4
"""A name of letters that is longer, or has more digits, may be more than a name."""


def iter_leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text and number in a value, with its pointer; of a value that is none itself, the pointer is empty."""
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        if value != "":
            yield path, str(value)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from iter_leaves(inner, f"{path}/{_escaped(str(name))}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from iter_leaves(inner, f"{path}/{index}")


def iter_unusual_key_names(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every name of an entry that is more than a plain word, with its pointer; what is nested deepest comes first."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from iter_unusual_key_names(inner, f"{path}/{_escaped(str(name))}")
        yield from ((f"{path}/#{at}", str(name)) for at, name in enumerate(value) if not _is_plain(str(name)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from iter_unusual_key_names(inner, f"{path}/{index}")


def _is_plain(name: str) -> bool:
    return name.isidentifier() and len(name) <= _PLAIN_LENGTH and sum(map(str.isdigit, name)) <= _PLAIN_DIGITS


class _Named(NamedTuple):
    """The last step of a pointer at a name."""

    name_number: int


def text_at_pointer(value: Any, path: str) -> str:
    """The text at a pointer."""
    for step in _steps(path):
        if isinstance(step, _Named):
            return str(list(value)[step.name_number])
        value = value[step] if isinstance(value, Mapping) else value[int(step)]
    return str(value)


def replace_text_at_pointer(value: Any, path: str, text: str) -> Any:
    """The value with another text at a pointer."""
    return _put(value, _steps(path), text)


def _put(value: Any, steps: list[str | _Named], text: str) -> Any:
    if not steps:
        return text
    first, rest = steps[0], steps[1:]
    if isinstance(first, _Named):
        return _called(value, first.name_number, text)
    if isinstance(value, Mapping):
        return {name: _put(inner, rest, text) if str(name) == first else inner for name, inner in value.items()}
    return type(value)(_put(inner, rest, text) if index == int(first) else inner for index, inner in enumerate(value))


def _called(value: Mapping[str, Any], name_number: int, name: str) -> dict[str, Any]:
    """The value with another name for an entry; one that is taken is numbered, so that nothing is lost."""
    taken = {other for at, other in enumerate(value) if at != name_number}
    free = next(one for number in count(1) if (one := name if number == 1 else f"{name} {number}") not in taken)
    return {free if at == name_number else other: inner for at, (other, inner) in enumerate(value.items())}


def _steps(path: str) -> list[str | _Named]:
    return [_Named(int(step[1:])) if step.startswith("#") else _unescape(step) for step in path.split("/")[1:]]


def _unescape(step: str) -> str:
    return step.replace("~2", "#").replace("~1", "/").replace("~0", "~")


def _escaped(name: str) -> str:
    name = name.replace("~", "~0").replace("/", "~1")
    return f"~2{name[1:]}" if name.startswith("#") else name
