"""How far two categories lie apart: Krippendorff's levels of measurement, and the weights of kappa and AC2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError

_BEGIN = re.compile(r"-?\d+(\.\d+)?")
Level = Literal["nominal", "ordinal", "interval", "ratio"]
Weights = Literal["identity", "linear", "quadratic"]


def distances(level: Level, categories: Sequence[Any]) -> NDArray[np.float64]:
    """(categories, categories): Krippendorff's squared difference; that of ordinal data needs counts, too."""
    number = len(categories)
    if level == "nominal":
        return np.asarray(1.0 - np.eye(number))
    values = _numbers(level, categories)
    apart = values[:, None] - values[None, :]
    if level == "ratio":
        whole = values[:, None] + values[None, :]
        apart = np.divide(apart, whole, out=np.zeros_like(apart), where=whole != 0)
    return np.asarray(apart**2)


def agreements(weights: Weights, categories: Sequence[Any]) -> NDArray[np.float64]:
    """(categories, categories): 1 for the same category, less the more categories lie between two."""
    number = len(categories)
    if weights == "identity":
        return np.eye(number)
    in_order(categories)
    steps = np.abs(np.arange(number)[:, None] - np.arange(number)[None, :]) / (number - 1)
    return np.asarray(1.0 - steps ** (1 if weights == "linear" else 2))


def in_order(categories: Sequence[Any]) -> None:
    """Refuse categories whose order nobody can know: numbers have one, single signs, and names that begin with
    numbers."""
    begins = [_BEGIN.match(str(category)) for category in categories]
    numbers = [float(found[0]) if found else None for found in begins]
    known = [number for number in numbers if number is not None]
    if all(len(str(one)) == 1 for one in categories) or (len(known) == len(numbers) and known == sorted(known)):
        return
    odd = next((one for one, number in zip(categories, numbers, strict=True) if number is None), categories[0])
    what = f"nobody says in what order the categories stand; a judgment is {odd!r}"
    raise DataError(what, remedy="use level nominal, or numbers; names such as '1 low', '2 high' have an order, too")


def _numbers(level: Level, categories: Sequence[Any]) -> NDArray[np.float64]:
    try:
        values = np.array([float(value) for value in categories])
    except (TypeError, ValueError) as error:
        what = f"level {level} wants numbers; a judgment is {_odd(categories)!r}"
        raise DataError(what, remedy="use level nominal, or ordinal for ordered categories") from error
    if level == "ratio" and (values < 0).any():
        raise DataError(f"level ratio wants numbers from 0 up; a judgment is {values.min():g}", remedy="use interval")
    return values


def _odd(categories: Sequence[Any]) -> Any:
    for value in categories:
        try:
            float(value)
        except (TypeError, ValueError):
            return value
    return None
