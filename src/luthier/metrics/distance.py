"""How far two categories lie apart: Krippendorff's levels of measurement, and the weights of kappa and AC2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError

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
    steps = np.abs(np.arange(number)[:, None] - np.arange(number)[None, :]) / (number - 1)
    return np.asarray(1.0 - steps ** (1 if weights == "linear" else 2))


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
