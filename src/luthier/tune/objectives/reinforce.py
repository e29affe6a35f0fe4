"""REINFORCE++: no value model, no groups needed; advantages are normalized over all tokens of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.policy import TokenPolicyLoss, clip_ranges, compute_clipped_loss, mark_clipped_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack
    from luthier.tune.rollout.scores import RolloutBatch


class ReinforcePlusPlus(TokenPolicyLoss):
    """-min(r A, clip(r) A) for each token, with A the reward of its answer less what the divergence of this and all
    later tokens costs (`kl: {estimator: k1}`), brought to mean 0 and deviation 1 over the step's tokens (Hu, 2025)."""

    kind: Literal["reinforce++"] = "reinforce++"

    baseline: Literal["none", "group"] = "none"
    """Whether the mean of its group is first subtracted from an answer's reward (REINFORCE++-baseline), for rewards
    that differ more between prompts than between answers."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Lower clipping range of the ratio."""
    epsilon_high: float = Field(default=0.2, gt=0)
    """Upper clipping range of the ratio."""

    @property
    def compares(self) -> bool:
        """Return whether the mean of the group is subtracted."""
        return self.baseline == "group"

    def advantages(self, judged: RolloutBatch) -> list[list[float]]:
        """Return the normalized return at each token."""
        import numpy as np

        from luthier.tune.rollout.scores import broadcast_to_tokens, compute_nan_mean, whiten_values

        worth = judged.scores - compute_nan_mean(judged.scores, 1) if self.baseline == "group" else judged.scores
        present = ~np.isnan(worth).ravel()
        ahead = broadcast_to_tokens(worth, judged.lengths)
        if judged.kl is not None:
            ahead = [
                [entry - cost for entry, cost in zip(some, _to_come(costs), strict=True)]
                for some, costs in zip(ahead, judged.kl, strict=True)
            ]
        return whiten_values(ahead, present.tolist())

    def surrogate(self, logp: Tensor, old: Tensor, advantage: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
        """Return the surrogate clipped at both sides."""
        ratio, bounds = (logp - old).exp(), (self.epsilon, self.epsilon_high)
        return compute_clipped_loss(ratio, advantage, *bounds), mark_clipped_tokens(ratio, advantage, *bounds)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Whether the group's mean is subtracted; and the clipping range, where answers are trained on for more than a
        step.
        """
        own = {"baseline": ParamDistribution(values=("none", "group"))} if self.rollout.num_generations > 1 else {}
        return own | (clip_ranges("epsilon", "epsilon_high") if self.rollout.steps_per_generation > 1 else {})


def _to_come(costs: Sequence[float]) -> list[float]:
    """Return at each token the sum of the costs of it and of all later ones."""
    totals, total = [], 0.0
    for cost in reversed(costs):
        total += cost
        totals.append(total)
    return totals[::-1]
