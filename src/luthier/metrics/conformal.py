"""Label sets by split conformal prediction: each holds the right label with a promised probability.

A score says how strange a label is for a row. The threshold is a quantile of the right labels' scores over rows that
nothing was learnt from; a set holds the labels whose score is no higher. For rows drawn as those were, the right label
is in the set with at least the promised probability, whatever the model (Vovk, Gammerman and Shafer 2005). By class
(Mondrian), that holds for the rows of each class.

`lac` is 1 - p (Sadinle, Lei and Wasserman 2019), with the smallest sets. `aps` is the probability of all labels as
likely or likelier (Romano, Sesia and Candès 2020), whose sets adapt to hard rows. `raps` adds a penalty for each label
beyond the first few (Angelopoulos et al. 2021). Scores are not randomized: the same row always has the same set, and
`aps` promises a little more than it must.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.artifacts.decisions import ConformalScore, ConformalSummary

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class ConformalScorer:
    """How strange each label is for a row."""

    kind: ConformalScore = "lac"
    penalty: float = 0.0
    free_labels: int = 0

    def score(self, probabilities: Floats) -> Floats:
        """(rows, labels) probabilities to (rows, labels) scores; higher is stranger."""
        if self.kind == "lac":
            return 1 - probabilities
        order = np.argsort(-probabilities, axis=1, kind="stable")
        sums = np.take_along_axis(probabilities, order, 1).cumsum(1)
        if self.kind == "raps":
            sums = sums + self.penalty * np.maximum(0, np.arange(1, sums.shape[1] + 1) - self.free_labels)
        found = np.empty_like(sums)
        np.put_along_axis(found, order, sums, 1)
        return found


def compute_threshold(scores: Floats, level: float) -> float:
    """The score up to which labels are in the set: the ceil((n + 1) · level)-th smallest of n right labels' scores;
    infinity where n is too small for the level."""
    rank = math.ceil((len(scores) + 1) * level - _TOLERANCE)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def calibrate(scores: Floats, truth: NDArray[np.int64], level: float, *, by_class: bool) -> Floats:
    """(labels,) thresholds from (rows, labels) scores and (rows,) numbers of the right labels."""
    own = scores[np.arange(len(truth)), truth]
    if not by_class:
        return np.full(scores.shape[1], compute_threshold(own, level))
    return np.array([compute_threshold(own[truth == label], level) for label in range(scores.shape[1])])


def select_labels(scores: Floats, thresholds: Floats) -> Bools:
    """(rows, labels): whether each label is in the row's set."""
    return scores <= thresholds + _TOLERANCE


def bound_coverage(rows: int, level: float, mass: float = 0.9) -> tuple[float, float]:
    """Where the true coverage lies with so much probability over draws of `rows` to calibrate with: the quantiles of
    Beta(k, n + 1 - k), exact for scores without ties."""
    from scipy.stats import beta

    rank = math.ceil((rows + 1) * level - _TOLERANCE)
    if rank > rows:
        return 1.0, 1.0
    tail = (1 - mass) / 2
    return float(beta.ppf(tail, rank, rows + 1 - rank)), float(beta.ppf(1 - tail, rank, rows + 1 - rank))


def build_conformal_scorer(kind: ConformalScore, penalty: float, free_labels: int) -> ConformalScorer:
    """The scorer of a kind; a penalty belongs to `raps` only."""
    regularized = kind == "raps"
    return ConformalScorer(kind, penalty if regularized else 0.0, free_labels if regularized else 0)


def select_label_set(summary: ConformalSummary, log_scores: Sequence[float]) -> tuple[str, ...]:
    """The set of one further row, by its log-score of each of the summary's labels; the likeliest first."""
    scorer = build_conformal_scorer(summary.score, summary.penalty, summary.free_labels)
    probabilities = normalize_rows([log_scores])
    values = {
        threshold.label: math.inf if threshold.value is None else threshold.value for threshold in summary.thresholds
    }
    thresholds = np.array([values.get(label, values.get("", math.inf)) for label in summary.labels])
    (inside,) = select_labels(scorer.score(probabilities), thresholds)
    order = np.argsort(-probabilities[0], kind="stable")
    return tuple(summary.labels[at] for at in order if inside[at])


def normalize_rows(log_scores: Sequence[Sequence[float]] | Floats) -> Floats:
    """(rows, labels) log-scores to probabilities that add up to 1."""
    logits = np.asarray(log_scores, dtype=np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    found: Floats = shares / shares.sum(1, keepdims=True)
    return found
