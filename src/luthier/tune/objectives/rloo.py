"""REINFORCE leave-one-out: an answer counts by how much better it is than the mean of the others to its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.policy import PolicyLoss, clip_ranges, compute_clipped_loss, mark_clipped_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack
    from luthier.tune.rollout.scores import RolloutBatch


class Rloo(PolicyLoss):
    """-min(r A, clip(r, 1 - ε, 1 + ε) A) for each answer, with r how much likelier the whole of it has become since it
    was written, and A its reward less the mean reward of the others (Kool et al., 2019; Ahmadian et al., 2024)."""

    kind: Literal["rloo"] = "rloo"

    normalize: bool = False
    """Whether advantages are normalized to mean 0 and standard deviation 1 over the step."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Clipping range of the ratio of a whole answer."""

    @property
    def compares(self) -> bool:
        """Return True: an answer is compared with the others to its prompt."""
        return True

    def advantages(self, judged: RolloutBatch) -> list[list[float]]:
        """Return the answer's advantage at each of its tokens."""
        from luthier.tune.rollout.scores import (
            SMALL,
            broadcast_to_tokens,
            compute_leave_one_out_mean,
            compute_nan_mean,
            compute_nan_std,
        )

        apart = judged.rewards - compute_leave_one_out_mean(judged.rewards)
        if self.normalize:
            apart = (apart - compute_nan_mean(apart)) / (compute_nan_std(apart) + SMALL)
        return broadcast_to_tokens(apart, judged.lengths)

    def surrogate(self, logp: Tensor, old: Tensor, advantage: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
        """Return the answer's advantage at each of its tokens, which share its weight of 1."""
        apart = logp - old
        ratio = apart.new_zeros(pack.rows).index_add(0, pack.path, apart).exp()[pack.path]
        return compute_clipped_loss(ratio, advantage, self.epsilon, self.epsilon), mark_clipped_tokens(
            ratio, advantage, self.epsilon, self.epsilon
        )

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Whether advantages are normalized; and the clipping range, where answers are trained on for more
        than a step.
        """
        clipped = clip_ranges("epsilon") if self.rollout.steps_per_generation > 1 else {}
        return {"normalize": ParamDistribution(values=(False, True)), **clipped}
