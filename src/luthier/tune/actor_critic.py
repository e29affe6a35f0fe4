"""Policies with a critic, which says before each token what the rest of an answer is worth, and learns on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.tune.objective import Loss
from luthier.tune.policy import RETURN, SHARE, VALUE, TokenPolicyLoss

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack


class ActorCritic(TokenPolicyLoss):
    """The base of policy objectives with a critic: an adapter and a head beside the policy's, over one frozen base
    (`luthier.tune.training.critic`)."""

    value_clip: float | None = Field(default=0.2, gt=0)
    """How far a value may move, from what it was when answers were drawn, before it has no gradient. None: any way."""
    value_weight: float = Field(default=0.5, gt=0)
    """Weight of the critic's loss beside the policy's, which matters where `max_grad_norm` bounds both together."""
    value_rate: float = Field(default=1.0, gt=0)
    """How many times quicker than the policy its critic learns."""
    value_start: Literal["auto", "zero"] = "auto"
    """Where the critic begins. `auto`: with the adapter and the head of the step's `reward_model`, where that stands on
    the model that is tuned, so that it knows from the first step what is good. `zero`: a new adapter, and all values
    0."""

    def value_loss(self, values: Tensor, pack: Pack) -> Loss:
        """½ max((v - R)², (clip(v, V - ε, V + ε) - R)²) from (N,) values, as a sum; as a measure, its mean."""
        token_values = {name: pack.token_values[name].to(values) for name in (RETURN, VALUE, SHARE)}
        far = (values - token_values[RETURN]) ** 2
        if self.value_clip is not None:
            bounded = values.clamp(token_values[VALUE] - self.value_clip, token_values[VALUE] + self.value_clip)
            far = far.maximum((bounded - token_values[RETURN]) ** 2)
        total = 0.5 * self.value_weight * (pack.weights.to(values) * far).sum()
        return Loss(total, {"value_loss": float((0.5 * far.detach() * token_values[SHARE]).sum())})
