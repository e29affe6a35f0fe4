"""Scores of given answers made alike, so that neither long nor frequent ones win for being so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Normalize = Literal["sum", "mean", "prior"]
Sums = Sequence[tuple[float, int]]
"""For each answer, its summed log-probability and how many tokens that is a sum over."""


def normalize_option_scores(how: Normalize, row: Sums, prior: Sums = ()) -> list[float]:
    """A score for each answer: the sum, the mean a token, or the sum less the answer's when the question is empty
    (`prior`; Zhao et al. 2021, contextual calibration), shifted to log-probabilities."""
    match how:
        case "sum":
            return [score for score, _ in row]
        case "mean":
            return [score / tokens for score, tokens in row]
        case "prior":
            return normalize_log_scores([score - before for (score, _), (before, _) in zip(row, prior, strict=True)])


def normalize_log_scores(scores: Sequence[float]) -> list[float]:
    """Log-scores shifted so that their shares add up to one: log-probabilities again."""
    most = max(scores)
    total = most + math.log(sum(math.exp(score - most) for score in scores))
    return [score - total for score in scores]
