"""Calibrated probabilities of labels, from a model's scores or from votes.

Scores are calibrated by temperature scaling (Guo et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from luthier.data.adjudicator import NOBODY, AdjudicatedLabel, AdjudicationResult, Votes, format_votes
from luthier.data.annotation.aggregate import LabelModelFit, VoteMatrix

_COLDEST, _HOTTEST = -3.0, 5.0
"""Bounds of the temperature's logarithm."""


def softmax_log_scores(scores: Mapping[str, float], temperature: float = 1.0) -> dict[str, float]:
    """Shares that add up to one, from log-scores divided by a temperature."""
    most = max(scores.values())
    weights = {label: math.exp((score - most) / temperature) for label, score in scores.items()}
    whole = sum(weights.values())
    return {label: weight / whole for label, weight in weights.items()}


def fit_label_temperature(scored: Sequence[Mapping[str, float]], labels: Sequence[str]) -> float:
    """The temperature under which the right labels are most probable, by their mean log-likelihood."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    names = sorted(scored[0])
    logs = np.array([[entry[name] for name in names] for entry in scored])
    right = np.array([names.index(label) for label in labels])

    def mean_nll(log_temperature: float) -> float:
        scaled = logs / math.exp(log_temperature)
        whole = np.logaddexp.reduce(scaled, axis=1)
        return float((whole - scaled[np.arange(len(right)), right]).mean())

    found = minimize_scalar(mean_nll, bounds=(_COLDEST, _HOTTEST), method="bounded", options={"xatol": 1e-6})
    return round(math.exp(float(found.x)), 6)


_EQUAL = 1e-9


def decide_labels(
    items: Sequence[Votes], fit: Callable[[VoteMatrix], LabelModelFit], least: float
) -> AdjudicationResult:
    """The likeliest label of each item under a fitted model; ties, and what is not more probable than `least`, are
    left out.

    The items are fitted in an order of their content, so that the one in which they came cannot be felt.
    """
    votes_by_item = [[(vote.annotator, vote.value) for vote in votes] for votes in items]
    order = sorted(
        (index for index, votes in enumerate(votes_by_item) if votes),
        key=lambda index: sorted(map(repr, votes_by_item[index])),
    )
    decisions = [NOBODY] * len(items)
    if not order:
        return AdjudicationResult(decisions)
    vote_matrix = VoteMatrix.of([votes_by_item[index] for index in order])
    model_fit = fit(vote_matrix)
    for index, row in zip(order, model_fit.probabilities.tolist(), strict=True):
        decisions[index] = _one(items[index], vote_matrix, row, least)
    quality = (round(float(entry), 6) for entry in model_fit.quality)
    return AdjudicationResult(decisions, dict(zip(vote_matrix.voters, quality, strict=True)))


def _one(votes: Votes, vote_matrix: VoteMatrix, row: list[float], least: float) -> AdjudicatedLabel:
    best = int(np.argmax(row))
    if sum(1 for entry in row if entry > row[best] - _EQUAL) > 1:
        return AdjudicatedLabel(None, why=f"tie: {format_votes(votes)}")
    if row[best] <= least and len(row) > 1:
        return AdjudicatedLabel(None, why=f"not sure enough: {row[best]:.2f} for {vote_matrix.labels[best]}")
    return AdjudicatedLabel(vote_matrix.labels[best], round(row[best], 6))
