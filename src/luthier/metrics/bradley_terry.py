"""Bradley-Terry strengths of models from pairwise preferences, with ties after Davidson.

With strengths s and a tie parameter t, i beats j with a probability in proportion to exp(s_i), loses to exp(s_j), and
ties to exp(t + (s_i + s_j) / 2). Without ties this is Bradley and Terry's model. Covariates z of a comparison, such as
how much longer the first answer is, add b·z to the logarithm of the odds of i against j: strengths are then those of
answers that are alike in them.

Bradley & Terry 1952, Biometrika 39; Davidson 1970, J. Am. Stat. Assoc. 65. Intervals: the sandwich estimator with
judgments of one item as a cluster (Huber 1967; Liang & Zeger 1986).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.metrics.intervals import Z95

Floats = NDArray[np.float64]
_STEPS = 200
_STEADY = 1e-10
_FAR = 15.0
"""A strength as far from another as this would lose once in three million: it is on its way to infinity."""


class PairwiseComparison(NamedTuple):
    """One judgment of a pair."""

    a: str
    b: str
    outcome: float
    """1: a was preferred; 0: b was; 0.5: a tie."""
    item: str
    """What was judged; judgments of one item hang together."""
    covariates: tuple[float, ...] = ()
    """What else differs between the two: the first minus the second."""


@dataclass(frozen=True, kw_only=True)
class Strength:
    """A model's log-strength above another's, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """All models' strengths above one of them."""

    against: str
    """The model whose strength is zero."""
    of: dict[str, Strength]
    tie: float | None
    """exp(t): how readily equals tie (their chance of a tie is exp(t) / (2 + exp(t))); None where nobody tied."""
    effects: dict[str, Strength] = field(default_factory=dict)
    """What each covariate adds to the logarithm of the odds, for one unit."""

    def beats(self, a: str, b: str) -> tuple[float, float, float]:
        """The chances that a is preferred to b, that they tie, and that b is preferred."""
        gap = (self.of[a].value - self.of[b].value) / 2
        weights = (math.exp(gap), self.tie or 0.0, math.exp(-gap))
        total = sum(weights)
        return weights[0] / total, weights[1] / total, weights[2] / total


def fit_bradley_terry(
    duels: Sequence[PairwiseComparison],
    *,
    against: str | None = None,
    smoothing: float = 0.5,
    covariates: Sequence[str] = (),
) -> Strengths:
    """The likeliest strengths.

    `against` is the model whose strength is zero (the first by name when left out). Each pair that met is given
    `smoothing` wins either way, and each covariate as many either way between equals that are one unit apart in it,
    which keeps the strength of one that always won finite; 0 is plain likelihood. `covariates` names what the duels
    carry. `DataError` when the models fall into groups that never met.
    """
    names = sorted({name for duel in duels for name in duel[:2]})
    if len(names) < 2:
        raise DataError(f"two models or more are compared; {len(names)} came")
    base = names.index(against if against is not None else names[0])
    _check_joined(names, duels)
    design, outcome, weight = _rows(names, duels, smoothing, len(covariates))
    ties = bool(np.any(outcome == 1))
    free = [at for at in range(design.shape[2]) if at != base and (ties or at != len(names))]
    found = _fit(design, outcome, weight, free, ties=ties)
    error = _errors(design, outcome, weight, found, free, [duel.item for duel in duels])
    parameters = [
        Strength(value=float(s), low=float(s - Z95 * e), high=float(s + Z95 * e))
        for s, e in zip(found, error, strict=True)
    ]
    return Strengths(
        against=names[base],
        of=dict(zip(names, parameters, strict=False)),
        tie=float(np.exp(found[len(names)])) if ties else None,
        effects=dict(zip(covariates, parameters[len(names) + 1 :], strict=True)),
    )


def _check_joined(names: Sequence[str], duels: Sequence[PairwiseComparison]) -> None:
    group = {name: name for name in names}

    def head(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for duel in duels:
        group[head(duel.a)] = head(duel.b)
    if apart := [name for name in names if head(name) != head(names[0])]:
        raise DataError(
            f"{apart[0]!r} was never compared, directly or through others, with {names[0]!r}",
            hint="judge a pair of them",
        )


def _rows(
    names: Sequence[str], duels: Sequence[PairwiseComparison], smoothing: float, covariates: int
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Linear predictors of the three outcomes, (rows, 3, names + 1 + covariates); which came, 0 a, 1 a tie, 2 b; and
    weights.

    Smoothing comes behind the duels, two rows for each pair that met, and two for each covariate.
    """
    index = {name: at for at, name in enumerate(names)}
    pairs = [(index[duel.a], index[duel.b]) for duel in duels]
    came = [{1.0: 0, 0.5: 1, 0.0: 2}[duel.outcome] for duel in duels]
    met = sorted({(min(pair), max(pair)) for pair in pairs}) if smoothing else []
    pairs += [pair for pair in met for _ in range(2)]
    apart = 2 * covariates if smoothing else 0
    came += [0, 2] * len(met) + [0, 2] * (apart // 2)
    weight = np.concatenate([np.ones(len(duels)), np.full(2 * len(met) + apart, smoothing)])
    design = np.zeros((len(came), 3, len(names) + 1 + covariates))
    for row, (a, b) in enumerate(pairs):
        design[row, 0, a] = design[row, 2, b] = 1.0
        design[row, 1, [a, b]] = 0.5
    design[:, 1, len(names)] = 1.0
    differences = np.zeros((len(came), covariates))
    if covariates:
        differences[: len(duels)] = [duel.covariates for duel in duels]
    for at in range(apart):
        differences[len(pairs) + at, at // 2] = 1.0
    design[:, 0, len(names) + 1 :] = differences / 2
    design[:, 2, len(names) + 1 :] = -differences / 2
    return design, np.asarray(came), weight


def _shares(design: Floats, found: Floats, *, ties: bool) -> Floats:
    """Probabilities of the three outcomes, (rows, 3)."""
    logs = design @ found
    if not ties:
        logs[:, 1] = -np.inf
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _fit(design: Floats, outcome: NDArray[np.int64], weight: Floats, free: list[int], *, ties: bool) -> Floats:
    """Newton's method with halved steps; the log-likelihood is concave."""
    found = np.zeros(design.shape[2])
    reached = _likelihood(design, outcome, weight, found, ties=ties)
    for _ in range(_STEPS):
        slope, curve = _slope(design, outcome, weight, found, ties=ties)
        step = np.zeros_like(found)
        step[free] = np.linalg.lstsq(curve.sum(axis=0)[np.ix_(free, free)], slope.sum(axis=0)[free], rcond=None)[0]
        scale = 1.0
        while (better := _likelihood(design, outcome, weight, found + scale * step, ties=ties)) < reached - 1e-12:
            scale /= 2
        found, reached = found + scale * step, better
        if np.abs(found).max() > _FAR:
            break
        if np.abs(scale * step).max() < _STEADY:
            return found
    raise DataError(
        "the strengths have no finite likeliest values: one model always won",
        hint="judge more rows, or keep `smoothing` above 0",
    )


def _likelihood(design: Floats, outcome: NDArray[np.int64], weight: Floats, found: Floats, *, ties: bool) -> float:
    shares = _shares(design, found, ties=ties)[np.arange(len(outcome)), outcome]
    return float(weight @ np.log(np.maximum(shares, 1e-300)))


def _slope(
    design: Floats, outcome: NDArray[np.int64], weight: Floats, found: Floats, *, ties: bool
) -> tuple[Floats, Floats]:
    """Each row's gradient of the log-likelihood, (rows, p), and its negative Hessian, (rows, p, p)."""
    shares = _shares(design, found, ties=ties)
    mean = np.einsum("rk,rkp->rp", shares, design)
    slope = weight[:, None] * (design[np.arange(len(outcome)), outcome] - mean)
    second = np.einsum("rk,rkp,rkq->rpq", shares, design, design)
    return slope, weight[:, None, None] * (second - mean[:, :, None] * mean[:, None, :])


def _errors(
    design: Floats, outcome: NDArray[np.int64], weight: Floats, found: Floats, free: list[int], items: Sequence[str]
) -> Floats:
    """Standard errors of all parameters, zero for those that are not fitted."""
    ties = bool(np.any(outcome == 1))
    slope, curve = _slope(design, outcome, weight, found, ties=ties)
    bread = np.linalg.pinv(curve.sum(axis=0)[np.ix_(free, free)])
    clusters = {item: at for at, item in enumerate(dict.fromkeys(items))}
    summed = np.zeros((len(clusters), len(free)))
    np.add.at(summed, [clusters[item] for item in items], slope[: len(items), free])
    correction = len(clusters) / max(1, len(clusters) - 1)
    spread = bread @ (summed.T @ summed) @ bread * correction
    errors = np.zeros(design.shape[2])
    errors[free] = np.sqrt(np.maximum(np.diag(spread), 0))
    return errors
