"""Group-relative policy optimisation: an answer counts by how much better it is than others to the same prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.core.param_space import ParamDistribution, list_unique_values
from luthier.tune.policy import (
    PolicyLoss,
    average_row_log_ratio,
    clip_ranges,
    compute_clipped_loss,
    mark_clipped_tokens,
)

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack, TokenRow
    from luthier.tune.rollout.scores import RolloutBatch


class Grpo(PolicyLoss):
    """-min(r A, clip(r, 1 - low, 1 + high) A) for each token, with r how much likelier it has become since it was
    written, and A its answer's reward less the mean of its group, over the group's deviation (Shao et al., 2024).

    | variant | settings |
    |---|---|
    | GRPO (Shao et al., 2024) | `average: row, epsilon_high: 0.2`, and `kl: {coefficient: 0.04}` |
    | Dr. GRPO (Liu et al., 2025) | `scale_rewards: none, average: constant, epsilon_high: 0.2` |
    | DAPO (Yu et al., 2025) | as it is, with `rollout: {redraw: 3, truncated: mask}` and the reward `length` |
    | GDPO (Liu et al., 2026) | `scale_rewards: rewards` |
    | GSPO (Zheng, 2025) | `importance_sampling_level: sequence, average: row, epsilon: 3e-4, epsilon_high: 4e-4` |
    """

    kind: Literal["grpo"] = "grpo"
    other_names: ClassVar[Mapping[str, str]] = {"loss_type": "average"}

    scale_rewards: Literal["group", "batch", "none", "rewards"] = "group"
    """What differences of reward are divided by: the deviation within the group, that of the whole step, or nothing,
    so that prompts of which nearly all answers are right or wrong do not weigh more. `rewards`: each reward by its own
    deviation within the group, before they are added up by their weights, and the sum by that of the whole step: a
    reward that varies much does not drown one that varies little, and answers with equal sums are still told apart."""
    average: Literal["token", "row", "constant"] = "token"
    """Whether the loss is averaged over tokens, over answers, or over a constant (tokens of answers of the maximum
    length), so that the length of an answer changes nothing."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Whether each token has its own ratio, or all tokens of an answer share their geometric mean."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Lower clipping range of the ratio."""
    epsilon_high: float = Field(default=0.28, gt=0)
    """Upper clipping range of the ratio; above `epsilon` it leaves unlikely tokens room to rise (DAPO's
    clip-higher)."""

    @model_validator(mode="after")
    def _each_reward_by_itself(self) -> Grpo:
        if self.apart and self.kl is not None and self.kl.estimator == "k1":
            raise ValueError(
                "under `scale_rewards: rewards` divergence cannot be taken off the reward; take the estimator k3"
            )
        if self.apart and isinstance(self.rollout.truncated, float):
            what = "under `scale_rewards: rewards` a cut answer is worth what each reward says of it, no number"
            raise ValueError(f"{what}; set `truncated: mask`, or punish length by the reward `length`")
        return self

    @property
    def compares(self) -> bool:
        """Return True: an answer is compared with its group."""
        return True

    @property
    def apart(self) -> bool:
        """Return whether each reward is normalized separately, as in GDPO."""
        return self.scale_rewards == "rewards"

    def advantages(self, judged: RolloutBatch) -> list[list[float]]:
        """Return the answer's advantage at each of its tokens."""
        from luthier.tune.rollout.scores import (
            SMALL,
            broadcast_to_tokens,
            compute_nan_mean,
            compute_nan_std,
            normalize_each_reward,
        )

        if self.apart:
            return broadcast_to_tokens(normalize_each_reward(judged), judged.lengths)
        apart = judged.rewards - compute_nan_mean(judged.rewards, 1)
        if self.scale_rewards != "none":
            apart = apart / (compute_nan_std(judged.rewards, 1 if self.scale_rewards == "group" else None) + SMALL)
        return broadcast_to_tokens(apart, judged.lengths)

    def weight(self, tokens: int) -> float:
        """Return the weight of each token of an answer of `tokens` tokens."""
        return super().weight(tokens) if self.average == "row" else 1.0

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the number of trained tokens, of answers, or of answers times the maximum length."""
        if self.average == "token":
            return float(max(1, sum(len(row.targets) for row in rows)))
        return float(len(rows) * (self.rollout.written if self.average == "constant" else 1))

    def surrogate(self, logp: Tensor, old: Tensor, advantage: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
        """Return the surrogate clipped at both sides."""
        apart = logp - old
        ratio = (average_row_log_ratio(apart, pack) if self.importance_sampling_level == "sequence" else apart).exp()
        bounds = self.epsilon, self.epsilon_high
        return compute_clipped_loss(ratio, advantage, *bounds), mark_clipped_tokens(ratio, advantage, *bounds)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The scaling of rewards; and the clipping range, where answers are trained on for more than a step."""
        scale = ParamDistribution(values=list_unique_values((self.scale_rewards, "group", "none")))
        if self.rollout.steps_per_generation == 1 or self.importance_sampling_level == "sequence":
            return {"scale_rewards": scale}
        return {"scale_rewards": scale, **clip_ranges("epsilon", "epsilon_high")}
