"""The settings with which a search begins each technique, from what ships with the package alone.

They follow from the space, the number of training rows and the classes. Neither this machine's speed nor past runs of a
user count, since the model of a search has to follow from its recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.auto.advice.evidence import RULES
from luthier.auto.advice.training import ROWS_PER_STEP, suggest_training

if TYPE_CHECKING:
    from luthier.auto.search.space import SearchSpace
    from luthier.core.param_space import ParamDistribution

_FIRST = ("lora", "plain")
"""Techniques that were measured on many sets; others follow by their rules, the most promising first."""


def suggest_first_trials(space: SearchSpace, rows: int, classes: int) -> tuple[Mapping[str, Any], ...]:
    """Return one trial for each technique: its default learning rate, with epochs and batch size for the number of
    rows, as far as these are searched.

    `classes` is 0 for free text. The searched step's own settings, and invalid ones, are left out.
    """
    known = space.apply(space.default)
    wished = {"epochs": 1, "batch_size": ROWS_PER_STEP, **suggest_training(rows, classes).settings}
    found = []
    for kind in sorted(space.branches, key=_rank):
        branch = space.branches[kind]
        settings = {**space.begin(kind), **{name: value for name, value in wished.items() if name in branch}}
        settings = {path: _fit(branch[path], value) if path in branch else value for path, value in settings.items()}
        if not space.refuses(settings) and space.apply(settings) != known:
            found.append(settings)
    return tuple(found)


def _rank(kind: str) -> tuple[float, str]:
    """Sorts measured techniques first, then those with a rule by what it promises, then the others."""
    if kind in _FIRST:
        return _FIRST.index(kind) - len(_FIRST), kind
    return next((-rule.advantage for rule in RULES if rule.technique == kind), float("inf")), kind


def _fit(distribution: ParamDistribution, value: Any) -> Any:
    """A value, or the nearest one that is searched where it is a number and is not."""
    if distribution.contains(value) or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not distribution.values:
        return min(max(value, distribution.low), distribution.high)
    numbers = [entry for entry in distribution.values if isinstance(entry, int | float) and not isinstance(entry, bool)]
    return min(numbers, key=lambda number: abs(number - value), default=value)
