"""CPO: preferred answers likelier than the others, and learnt as they stand, with no reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.core.param_space import ParamDistribution
from luthier.tune.objective import Loss, row_sums, row_tokens
from luthier.tune.preference import RATE_SHARE, PairObjective, measure_rankings, split_chosen_rejected

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack


class Cpo(PairObjective):
    """A loss of the difference between two answers' log-probabilities, plus the plain loss of the preferred one,
    averaged over the pairs of a step (Xu et al., 2024).

    With d = β (log p(preferred) - log p(other)) and ε the share of wrong labels: `sigmoid` is
    -(1 - ε) log σ(d) - ε log σ(-d), `hinge` max(0, 1 - d), and `ipo` (d / β - 1 / 2β)² a token.
    """

    kind: Literal["cpo"] = "cpo"
    rate_share: ClassVar[float] = RATE_SHARE

    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """Which loss of the difference."""
    beta: float = Field(default=0.1, gt=0)
    """What the difference is multiplied by."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs that are taken to be the wrong way round, under `sigmoid`."""
    cpo_alpha: float = Field(default=1.0, ge=0)
    """Weight of the plain loss of the preferred answers (mean over their tokens), which stands in for the reference."""

    @model_validator(mode="after")
    def _smoothing_belongs(self) -> Cpo:
        if self.label_smoothing and self.loss_type != "sigmoid":
            raise ValueError(f"label_smoothing changes nothing under {self.loss_type}; use sigmoid, or leave it out")
        return self

    @property
    def sft_weight(self) -> float:
        """Return `cpo_alpha`."""
        return self.cpo_alpha

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return one term a pair, and the negative log-likelihood of the preferred answers by token."""
        sums = row_sums(logp, pack)
        better, worse = split_chosen_rejected(sums / row_tokens(pack) if self.loss_type == "ipo" else sums, pack)
        return Loss(
            self.pair_terms(self._each(better - worse), logp, pack),
            measure_rankings(self.beta * better, self.beta * worse),
        )

    def _each(self, apart: Tensor) -> Tensor:
        """Return (pairs,) losses from (pairs,) differences."""
        from torch.nn.functional import logsigmoid

        if self.loss_type == "ipo":
            return (apart - 1 / (2 * self.beta)) ** 2
        if self.loss_type == "hinge":
            return (1 - self.beta * apart).relu()
        wrong = self.label_smoothing
        return -(1 - wrong) * logsigmoid(self.beta * apart) - wrong * logsigmoid(-self.beta * apart)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The weight of the difference, and of the negative log-likelihood."""
        return {
            "beta": ParamDistribution(0.01, 0.5, log=True),
            "cpo_alpha": ParamDistribution(0.1, 2.0, log=True),
        }
