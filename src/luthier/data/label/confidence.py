"""From scores of labels to probabilities that mean what they say: temperature scaling (Guo et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_COLDEST, _HOTTEST = -3.0, 5.0
"""Bounds of the temperature's logarithm."""


def probabilities(scores: Mapping[str, float], temperature: float = 1.0) -> dict[str, float]:
    """Shares that add up to one, from log-scores divided by a temperature."""
    most = max(scores.values())
    weights = {label: math.exp((score - most) / temperature) for label, score in scores.items()}
    whole = sum(weights.values())
    return {label: weight / whole for label, weight in weights.items()}


def temperature(scored: Sequence[Mapping[str, float]], labels: Sequence[str]) -> float:
    """The temperature under which the right labels are most probable, by their mean log-likelihood."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    names = sorted(scored[0])
    logs = np.array([[one[name] for name in names] for one in scored])
    right = np.array([names.index(label) for label in labels])

    def surprise(log_temperature: float) -> float:
        scaled = logs / math.exp(log_temperature)
        whole = np.logaddexp.reduce(scaled, axis=1)
        return float((whole - scaled[np.arange(len(right)), right]).mean())

    found = minimize_scalar(surprise, bounds=(_COLDEST, _HOTTEST), method="bounded", options={"xatol": 1e-6})
    return round(math.exp(float(found.x)), 6)
