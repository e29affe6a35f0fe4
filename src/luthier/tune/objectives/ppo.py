"""Proximal policy optimisation: each token counts by how much better things went than a critic had expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.policy import (
    ADVANTAGE,
    RETURN,
    VALUE,
    ActorCritic,
    clip_ranges,
    compute_clipped_loss,
    mark_clipped_tokens,
)

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack
    from luthier.tune.rollout.scores import RolloutBatch


class Ppo(ActorCritic):
    """-min(r A, clip(r, 1 - ε, 1 + ε) A) for each token, with A its generalised advantage (Schulman et al., 2016, 2017;
    for language models Ziegler et al., 2019).

    A critic, which is an adapter and a head beside the policy's over the same frozen base, says V(t), what the rest of
    an answer is worth before its token t. With ρ(t) the reward of a token (that of the answer at its last one, less
    what divergence costs under `kl: {estimator: k1}`):

        δ(t) = ρ(t) + γ V(t+1) - V(t),    A(t) = δ(t) + γ λ A(t+1),    R(t) = A(t) + V(t)

    The critic learns ½ max((v - R)², (clip(v, V - ε, V + ε) - R)²). All are means over the tokens of a step.
    """

    kind: Literal["ppo"] = "ppo"

    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount factor a token. 1: the length of an answer costs nothing."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Lambda of generalized advantage estimation: 0 trusts the critic alone, 1 the observed rewards alone."""
    whiten: bool = True
    """Whether advantages are normalized to mean 0 and standard deviation 1 over the step's tokens."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Lower clipping range of the ratio."""
    epsilon_high: float = Field(default=0.2, gt=0)
    """Upper clipping range of the ratio."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Upper bound of the ratio where A is negative (Ye et al., 2020; 3 is usual). None: no bound."""

    def compute_token_values(self, judged: RolloutBatch) -> dict[str, list[list[float]]]:
        """Return advantages, returns and the critic's values; nothing to train on where all advantages are zero."""
        assert judged.values is not None, "the rollout asks the critic"
        ahead = [
            _advantages(*token, self.gamma, self.gae_lambda)
            for token in zip(judged.tokens(), judged.values, strict=True)
        ]
        returns = [
            [entry + value for entry, value in zip(some, values, strict=True)]
            for some, values in zip(ahead, judged.values, strict=True)
        ]
        return {
            ADVANTAGE: self._whiten_advantages(ahead, judged),
            RETURN: returns,
            VALUE: [list(entry) for entry in judged.values],
        }

    def advantages(self, judged: RolloutBatch) -> list[list[float]]:
        """Return the generalized advantage at each token."""
        return self.compute_token_values(judged)[ADVANTAGE]

    def _whiten_advantages(self, ahead: list[list[float]], judged: RolloutBatch) -> list[list[float]]:
        """Return advantages whitened over the tokens of the step; 0 for answers that are left out, and for all where
        all are equal.
        """
        import numpy as np

        from luthier.tune.rollout.scores import whiten_values

        here = (~np.isnan(judged.scores)).ravel().tolist()
        if judged.alike:
            return [[0.0] * len(some) for some in ahead]
        if self.whiten:
            return whiten_values(ahead, here)
        return [some if is_here else [0.0] * len(some) for some, is_here in zip(ahead, here, strict=True)]

    def surrogate(self, logp: Tensor, old: Tensor, advantage: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
        """Return the surrogate clipped at both sides, and by `dual_clip` where that is set."""
        ratio, bounds = (logp - old).exp(), (self.epsilon, self.epsilon_high)
        each, beyond = compute_clipped_loss(ratio, advantage, *bounds), mark_clipped_tokens(ratio, advantage, *bounds)
        if self.dual_clip is None:
            return each, beyond
        worst = -self.dual_clip * advantage
        below = (advantage < 0) & (each > worst)
        return worst.where(below, each), below.to(ratio).maximum(beyond)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Lambda; and the clipping range, where answers are trained on for more than a step."""
        clipped = clip_ranges("epsilon", "epsilon_high") if self.rollout.steps_per_generation > 1 else {}
        return {"gae_lambda": ParamDistribution(0.9, 1.0), **clipped}


def _advantages(rewards: Sequence[float], values: Sequence[float], gamma: float, gae_lambda: float) -> list[float]:
    """Return the generalized advantages of the tokens of one answer."""
    advantages, ahead, later = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        ahead = reward + gamma * later - value + gamma * gae_lambda * ahead
        later = value
        advantages.append(ahead)
    return advantages[::-1]
