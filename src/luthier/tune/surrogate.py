"""Losses of answers that the model wrote, from log-probabilities alone; all pure.

A surrogate has the gradient of the expected reward where the model is still the one that wrote; `old` is how likely
each token was then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.tune.objective import row_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.pack import Pack


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A), of any shape (Schulman et al., 2017)."""
    bounded = ratio.clamp(1 - low, 1 + high)
    return -(ratio * advantage).minimum(bounded * advantage)


def outside(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """1 where the clipped surrogate has no gradient, else 0."""
    beyond = ((ratio < 1 - low) & (advantage < 0)) | ((ratio > 1 + high) & (advantage > 0))
    return beyond.to(ratio)


def of_sequence(log_ratio: Tensor, pack: Pack) -> Tensor:
    """(N,) each token's row's mean log-ratio, so that a whole answer has one ratio (GSPO, Zheng et al., 2025)."""
    total = log_ratio.new_zeros(pack.rows).index_add(0, pack.path, log_ratio)
    return (total / row_tokens(pack).clamp(min=1))[pack.path]


def truncated(old: Tensor, written: Tensor, most: float) -> Tensor:
    """(N,) min(p/q, most): how much likelier a token is to the reading that learns than it was to the writing that drew
    it, where the two compute otherwise (truncated importance sampling, Yao et al., 2025)."""
    return (old - written).exp().clamp(max=most)


def divergence(logp: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """(N,) `k2` or `k3` of each token (Schulman, 2020)."""
    apart = logp - reference
    return 0.5 * apart**2 if estimator == "k2" else (-apart).expm1() + apart
