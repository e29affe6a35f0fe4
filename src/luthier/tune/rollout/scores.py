"""Rewards of the completions of one optimizer step, as an array of prompts by samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Table = NDArray[np.float64]

SMALL = 1e-4
"""Added to a standard deviation before dividing by it (as in TRL)."""


@dataclass(frozen=True, eq=False)
class RolloutBatch:
    """The reward of each completion, and its divergence from the initial model."""

    scores: Table  # (prompts, samples); NaN where an answer is left out
    lengths: NDArray[np.int64]  # (prompts, samples): learnt tokens; 0 for an answer that is not learnt
    kl: Sequence[Sequence[float]] | None = None
    """For each completion in turn, the penalty of each token: the coefficient times log p - log q."""
    values: Sequence[Sequence[float]] | None = None
    """For each completion in turn, the critic's value before each token, where there is a critic."""
    parts: Table | None = None
    """(prompts, samples, rewards) each reward, where rewards are compared separately."""
    shares: Sequence[float] = ()
    """Weight of each reward."""

    @cached_property
    def rewards(self) -> Table:
        """(prompts, samples) scores minus the KL penalty."""
        if self.kl is None:
            return self.scores
        costs: Table = np.array([sum(some) for some in self.kl]).reshape(self.scores.shape)
        return self.scores - costs

    @property
    def alike(self) -> bool:
        """Whether all completions of the step have the same reward and no token has a penalty."""
        present = self.scores[~np.isnan(self.scores)]
        free = self.kl is None or not any(map(any, self.kl))
        return free and (not present.size or bool(present.max() == present.min()))

    def tokens(self) -> list[list[float]]:
        """For each completion in turn the reward of each token: the score at the last one, minus the penalties."""
        flat = np.nan_to_num(self.scores).ravel().tolist()
        token_rewards = []
        for at, (worth, length) in enumerate(zip(flat, self.lengths.ravel().tolist(), strict=True)):
            rewards = [-cost for cost in self.kl[at]] if self.kl is not None else [0.0] * length
            if rewards:
                rewards[-1] += worth
            token_rewards.append(rewards)
        return token_rewards

    @property
    def flat(self) -> NDArray[np.bool_]:
        """(prompts,) whether the completions of a prompt all have the same reward."""
        present = ~np.isnan(self.scores)
        high = np.where(present, self.scores, -np.inf).max(1)
        low = np.where(present, self.scores, np.inf).min(1)
        alike: NDArray[np.bool_] = high <= low
        return alike


def compute_nan_std(values: Table, axis: int | None = None) -> Table:
    """Return the sample standard deviation of the values that are not NaN; 0 for fewer than two."""
    count = np.sum(~np.isnan(values), axis=axis, keepdims=True)
    apart = np.nansum((values - compute_nan_mean(values, axis)) ** 2, axis=axis, keepdims=True)
    deviations: Table = np.sqrt(np.divide(apart, count - 1, out=np.zeros_like(apart), where=count > 1))
    return deviations


def compute_nan_mean(values: Table, axis: int | None = None) -> Table:
    """Return the mean of the values that are not NaN, exact for equal values; 0 for none."""
    count = np.sum(~np.isnan(values), axis=axis, keepdims=True)
    total = np.nansum(values, axis=axis, keepdims=True)
    means: Table = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    return _clip_to_range(means, values, axis)


def _clip_to_range(means: Table, values: Table, axis: int | None) -> Table:
    """Clip means to the range of their values, against rounding: rewards that are all 0.1 must not differ from their
    mean by 1e-17.
    """
    present = ~np.isnan(values)
    least = np.where(present, values, np.inf).min(axis=axis, keepdims=True)
    most = np.where(present, values, -np.inf).max(axis=axis, keepdims=True)
    return np.where(least <= most, np.clip(means, least, most), means)


def normalize_each_reward(judged: RolloutBatch) -> Table:
    """Return (prompts, samples) advantages that normalize each reward within its group, sum them by their weights, and
    normalize over the step (GDPO, as in TRL).
    """
    assert judged.parts is not None, "a policy that compares rewards apart is told each"
    parts = np.where(np.isnan(judged.scores)[..., None], np.nan, judged.parts)
    each = (parts - compute_nan_mean(parts, 1)) / (compute_nan_std(parts, 1) + SMALL)
    total: Table = (each * np.asarray(judged.shares)).sum(-1)
    return (total - compute_nan_mean(total)) / (compute_nan_std(total) + SMALL)


def compute_leave_one_out_mean(values: Table) -> Table:
    """Return (prompts, samples) for each completion the mean of the others of its prompt; its own value where there are
    none.
    """
    count = np.sum(~np.isnan(values), axis=1, keepdims=True)
    total = np.nansum(values, axis=1, keepdims=True)
    alone = np.broadcast_to(count < 2, values.shape)
    rest = (total - np.nan_to_num(values)) / np.maximum(count - 1, 1)
    return np.where(alone, values, _clip_to_range(rest, values, 1))


def broadcast_to_tokens(values: Table, lengths: NDArray[np.int64]) -> list[list[float]]:
    """Return for each completion in turn its value at each of its tokens; 0 for NaN."""
    flat = np.nan_to_num(values).ravel().tolist()
    return [[value] * int(length) for value, length in zip(flat, lengths.ravel(), strict=True)]


def whiten_values(values: Sequence[Sequence[float]], here: Sequence[bool]) -> list[list[float]]:
    """Return values of tokens by completion, normalized to mean 0 and standard deviation 1 over the completions that
    are `here`; 0 for the others.

    It is the sample standard deviation (as in verl). A single token keeps its value.
    """
    tokens = np.array([value for some, is_here in zip(values, here, strict=True) if is_here for value in some])
    middle, spread = 0.0, 1.0
    if tokens.size > 1:
        middle, spread = float(compute_nan_mean(tokens)[0]), float(np.sqrt(tokens.var(ddof=1) + 1e-8))
    return [
        [(value - middle) / spread if is_here else 0.0 for value in some]
        for some, is_here in zip(values, here, strict=True)
    ]
