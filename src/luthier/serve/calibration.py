"""Probabilities that mean what they say: scores of labels divided by one temperature, which is fitted.

Guo et al. 2017: the temperature that makes the true labels of rows likeliest that the model did not learn from. It
changes no answer, since it keeps the order of the labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_LEAST_ROWS = 20
"""Fewer say nothing about a temperature."""
_BOUNDS = (0.05, 20.0)


def probabilities(scores: Mapping[str, float], temperature: float) -> dict[str, float]:
    """The share of each label, from log-scores."""
    most = max(scores.values())
    shares = {label: math.exp((score - most) / temperature) for label, score in scores.items()}
    whole = sum(shares.values())
    return {label: share / whole for label, share in shares.items()}


def fit_temperature(rows: Sequence[Mapping[str, float]], truths: Sequence[str]) -> float | None:
    """The temperature under which the true labels are likeliest; None where there are too few rows."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    known = [(row, truth) for row, truth in zip(rows, truths, strict=True) if truth in row]
    if len(known) < _LEAST_ROWS:
        return None
    labels = sorted(known[0][0])
    scores = np.array([[row[label] for label in labels] for row, _ in known])
    right = np.array([labels.index(truth) for _, truth in known])

    def surprise(log_temperature: float) -> float:
        scaled = scores / math.exp(log_temperature)
        whole = np.logaddexp.reduce(scaled, axis=1)
        return float((whole - scaled[np.arange(len(right)), right]).mean())

    found = minimize_scalar(surprise, bounds=tuple(map(math.log, _BOUNDS)), method="bounded")
    return float(math.exp(found.x))
