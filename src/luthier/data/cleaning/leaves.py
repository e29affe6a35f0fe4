"""Texts inside nested values: where each stands, by a JSON pointer (RFC 6901), and the value with one replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text and number in a value, with its pointer; of a value that is none itself, the pointer is empty."""
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        if value != "":
            yield path, str(value)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}/{_escaped(str(name))}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{place}")


def leaf(value: Any, path: str) -> str:
    """The text at a pointer."""
    for step in _steps(path):
        value = value[step] if isinstance(value, Mapping) else value[int(step)]
    return str(value)


def with_leaf(value: Any, path: str, text: str) -> Any:
    """The value with another text at a pointer."""
    return _put(value, _steps(path), text)


def _put(value: Any, steps: list[str], text: str) -> Any:
    if not steps:
        return text
    first, rest = steps[0], steps[1:]
    if isinstance(value, Mapping):
        return {name: _put(inner, rest, text) if str(name) == first else inner for name, inner in value.items()}
    return type(value)(_put(inner, rest, text) if place == int(first) else inner for place, inner in enumerate(value))


def _steps(path: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
