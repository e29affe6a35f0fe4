"""Rejection sampling: of several answers the best are learnt as if they had been given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.policy import TokenPolicyLoss

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack, TokenRow
    from luthier.tune.rollout.scores import RolloutBatch


class Raft(TokenPolicyLoss):
    """The negative log-likelihood of the best of several answers of the model's own (best-of-n; RAFT, Dong et al.,
    2023): the simple road, which asks nothing of rewards but an order."""

    kind: Literal["raft"] = "raft"

    keep: int = Field(default=1, ge=1)
    """Answers to each prompt that are learnt: the best, of equal ones the first."""
    min: float | None = None
    """Minimum reward of an answer that is trained on. When not given, the answers to a prompt must at least differ."""

    @property
    def compares(self) -> bool:
        """Return True unless a minimum reward is set."""
        return self.min is None

    def advantages(self, judged: RolloutBatch) -> list[list[float]]:
        """Return 1 for an answer that is trained on, else 0."""
        import numpy as np

        from luthier.tune.rollout.scores import broadcast_to_tokens

        worth = np.nan_to_num(judged.rewards, nan=-np.inf)
        rank = np.argsort(np.argsort(-worth, axis=1, kind="stable"), axis=1, kind="stable")
        good = ~judged.flat[:, None] if self.min is None else worth >= self.min
        return broadcast_to_tokens(((rank < self.keep) & good & np.isfinite(worth)).astype(np.float64), judged.lengths)

    @property
    def trained_completions(self) -> int:
        """Return the number of answers to each prompt that are kept and trained on."""
        return min(self.keep, self.rollout.num_generations)

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the number of tokens of the answers that are trained on."""
        return super().denominator([row for row in rows if self.has_gradient(row)])

    def surrogate(self, logp: Tensor, old: Tensor, advantage: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
        """Return minus the log-probability."""
        return -logp * advantage, logp.detach() * 0

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The number of answers to a prompt that are trained on: up to half of them."""
        half = self.rollout.num_generations // 2
        return {"keep": ParamDistribution(1, half, integer=True)} if half > 1 else {}
