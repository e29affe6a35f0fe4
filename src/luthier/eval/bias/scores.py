"""Probabilities of labels from scores that are comparable within a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.eval.task import Reply


def softmax_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """The softmax of log-scores."""
    most = max(scores.values())
    shares = {label: math.exp(score - most) for label, score in scores.items()}
    total = sum(shares.values())
    return {label: value / total for label, value in shares.items()}


def compute_label_probabilities(reply: Reply, labels: Sequence[str]) -> list[float]:
    """Each label's probability; all of it on the answer where a model gives no scores."""
    if reply.scores is None:
        return [float(reply.prediction == label) for label in labels]
    found = softmax_scores(reply.scores)
    return [found[label] for label in labels]
