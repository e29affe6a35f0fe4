"""What a search may try for one setting: a range of numbers, or a list of values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ParamDistribution:
    """What a search may try for one setting: bounds, both included (on a log scale or not), or a list of values.

    `ValueError` when it is empty, inverted, or says both.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether numbers are drawn evenly by their logarithm."""
    values: tuple[Any, ...] = ()
    """The values, instead of bounds."""
    integer: bool = False
    """Whether only whole numbers are drawn."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """`ValueError` when there is nothing to try, or when bounds contradict each other."""
        if self.values:
            if self.low or self.high or self.log or self.integer:
                raise ValueError("a list of values has no bounds, no log scale and no whole numbers of its own")
            if len(list_unique_values(self.values)) < len(self.values):
                raise ValueError(f"a value stands twice among {list(self.values)!r}")
            return
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"bounds are finite numbers, got {self.low:g} and {self.high:g}")
        if self.low >= self.high:
            raise ValueError(f"there is nothing between low {self.low:g} and high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale begins above 0, got low {self.low:g}")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError(f"whole numbers have whole bounds, got {self.low:g} and {self.high:g}")

    def contains(self, value: Any) -> bool:
        """Whether a value is one of the values, or a number within the bounds."""
        if self.values:
            return any(is_same_value(value, entry) for entry in self.values)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.integer or value == int(value))

    def to_json(self) -> dict[str, Any]:
        """As a recipe writes it: `{values: [...]}`, or `{low, high}` with `log` and `integer` where they are on."""
        if self.values:
            return {"values": [_to_json(value) for value in self.values]}
        marks = {name: True for name, on in (("log", self.log), ("integer", self.integer)) if on}
        return {"low": self.low, "high": self.high, **marks}


def is_same_value(one: Any, other: Any) -> bool:
    """Whether two values are the same setting: a list equals a tuple, and `true` is not 1."""
    return bool(_identity(one) == _identity(other))


def list_unique_values(values: Iterable[Any]) -> tuple[Any, ...]:
    """The values in order, each once."""
    found: dict[Any, Any] = {}
    for value in values:
        found.setdefault(_identity(value), value)
    return tuple(found.values())


def _identity(value: Any) -> Any:
    """A hashable form that tells values apart as settings."""
    if isinstance(value, list | tuple):
        return tuple(_identity(entry) for entry in value)
    if isinstance(value, dict):
        return frozenset((name, _identity(entry)) for name, entry in value.items())
    return (isinstance(value, bool), value)


def _to_json(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_to_json(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _to_json(entry) for name, entry in value.items()}
    return value
