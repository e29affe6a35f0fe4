"""SimPO: preferred answers likelier a token than the others, by a margin, with no reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.objective import Loss, row_sums, row_tokens
from luthier.tune.preference import RATE_SHARE, PairObjective, measure_rankings, split_chosen_rejected

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack


class Simpo(PairObjective):
    """-log σ(β (p - q) - γ), with p and q the mean log-probability of a token of the preferred and of the other answer,
    averaged over the pairs of a step (Meng et al., 2024).

    Nothing holds the model to what it was but the learning rate, which its authors set ten times lower than for `dpo`.
    """

    kind: Literal["simpo"] = "simpo"
    rate_share: ClassVar[float] = RATE_SHARE

    beta: float = Field(default=2.0, gt=0)
    """Factor on the difference: 2 to 2.5 in the paper, 10 for the largest models."""
    gamma: float = Field(default=1.0, ge=0)
    """The target margin between the two answers; half of `beta` is usual."""
    cpo_alpha: float = Field(default=0.0, ge=0)
    """Weight of the negative log-likelihood of the preferred answers (mean over their tokens): SimPO with CPO's
    term."""

    @property
    def sft_weight(self) -> float:
        """Return `cpo_alpha`."""
        return self.cpo_alpha

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return one term a pair, and the negative log-likelihood by token."""
        from torch.nn.functional import logsigmoid

        better, worse = split_chosen_rejected(self.beta * row_sums(logp, pack) / row_tokens(pack), pack)
        return Loss(
            self.pair_terms(-logsigmoid(better - worse - self.gamma), logp, pack), measure_rankings(better, worse)
        )

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The authors searched 2 to 10 for beta, and margins of 0.3 to 1.6 times as much or less."""
        return {
            "beta": ParamDistribution(1.0, 10.0, log=True),
            "gamma": ParamDistribution(0.2, 5.0, log=True),
        }
