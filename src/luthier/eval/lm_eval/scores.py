"""The library's score of each row as a column with an interval, whatever function it is put together by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.api.registry import aggregation_registry
from lm_eval.api.task import Task

from luthier.metrics.columns import CorpusScores, How, RowScores, WeightedColumn, influence_from_jackknife
from luthier.metrics.kinds.binary_label import F1
from luthier.metrics.kinds.labels import Mcc
from luthier.metrics.kinds.translation import Bleu, Chrf, Ter
from luthier.metrics.metric import Metric

_PAIRS: Mapping[str, tuple[Callable[[], Metric], type]] = {
    "f1": (lambda: F1(label="1"), int),
    "matthews_corrcoef": (Mcc, int),
    "bleu": (Bleu, str),
    "chrf": (Chrf, str),
    "ter": (Ter, str),
}
"""Metrics over all rows, from what is right and what was predicted: numbers of choices, or texts."""
_SUMS: Mapping[str, How] = {"weighted_perplexity": "perplexity", "bits_per_byte": "bits"}


def build_column(task: Task, metric: str, values: Sequence[Any]) -> RowScores:
    """A metric's values as the task's own code gave them, None for rows that it left out."""
    aggregate = task.aggregation().get(metric, mean)
    name = next((key for key, verb in aggregation_registry.items() if verb is aggregate), "")
    present = [value for value in values if value is not None]
    if name in _PAIRS and len(present) == len(values) and all(_is_pair(value, _PAIRS[name][1]) for value in values):
        predictions, right = [str(value[1]) for value in values], [str(value[0]) for value in values]
        return CorpusScores.of(_PAIRS[name][0](), predictions, right)
    if name in _SUMS:
        return _column(_SUMS[name], values, lambda entry: (float(entry[0]), float(entry[1])))
    if name == "perplexity":
        return _column("perplexity", values)
    if name == "brier_score" and all(isinstance(entry[0], int) for entry in present):
        return _column("brier", values, lambda entry: (_brier(*entry), 1.0))
    lower = task.higher_is_better().get(metric, True) is False
    if name == "mean" and all(isinstance(entry, int | float | np.number) for entry in present):
        found = [float(entry) for entry in present]
        right_or_wrong = len(present) == len(values) and set(found) <= {0.0, 1.0}
        how: How = "share" if right_or_wrong and not lower else "mean" if _within_one(found) and not lower else "value"
        return _column(how, values, lower=lower)
    return _linearized(aggregate, values, present, lower=lower)


def _linearized(
    aggregate: Callable[[list[Any]], float], values: Sequence[Any], present: list[Any], *, lower: bool
) -> WeightedColumn:
    """Numbers whose mean is the value, each with the pull of its row: what the value loses without it."""
    whole = float(aggregate(present))
    without = [
        float(aggregate([*present[:at], *present[at + 1 :]])) for at in range(len(present) if len(present) > 1 else 0)
    ]
    pulls = iter(influence_from_jackknife(whole, np.array(without or [whole])).pulls)
    found = [None if value is None else whole + float(next(pulls)) for value in values]
    return _column("value", found, lower=lower)


def _column(
    how: How,
    values: Sequence[Any],
    parts: Callable[[Any], tuple[float, float]] = lambda entry: (float(entry), 1.0),
    *,
    lower: bool = False,
) -> WeightedColumn:
    """Amounts and weights; a row that was left out weighs nothing."""
    pairs = [(0.0, 0.0) if value is None else parts(value) for value in values]
    amounts, weights = [item for item, _ in pairs], [item for _, item in pairs]
    return WeightedColumn.of(how, amounts, weights, lower=lower)


def _brier(right: int, shares: Any) -> float:
    return float(sum((float(share) - (at == right)) ** 2 for at, share in enumerate(shares)))


def _is_pair(value: Any, kind: type) -> bool:
    numbers = (int, np.integer) if kind is int else kind
    return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(entry, numbers) for entry in value)


def _within_one(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) and 0.0 <= value <= 1.0 for value in values)
