"""Direct preference optimisation: make preferred answers likelier than the others, beside the model as it was."""

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

SMOOTHED = ("sigmoid", "robust")
"""Losses with label smoothing."""


class DpoObjective(PairObjective):
    """A loss of the two log-ratios of each pair, averaged over the pairs of a step (Rafailov et al., 2023).

    With c and r the log-ratios between the model and the model as it was, of the preferred answer and of the other one,
    and d = β (c - r), ε the share of wrong labels:

        sigmoid    -(1 - ε) log σ(d) - ε log σ(-d)               (conservative where ε > 0: Mitchell, 2023)
        robust     (-(1 - ε) log σ(d) + ε log σ(-d)) / (1 - 2ε)  (unbiased under wrong labels: Chowdhury et al., 2024)
        hinge      max(0, 1 - d)                                 (Zhao et al., 2023, SLiC)
        ipo        (c - r - 1 / 2β)², c and r a token            (Azar et al., 2023)
        apo_zero   1 - σ(β c) + σ(β r)                           (D'Oosterlinck et al., 2024)
        apo_down   σ(β c) + 1 - σ(d)

    `apo_zero` is for preferred answers that are better than the model's own, `apo_down` for worse ones.
    """

    kind: Literal["dpo"] = "dpo"
    needs_reference: ClassVar[bool] = True
    rate_share: ClassVar[float] = RATE_SHARE
    loss_type: Literal["sigmoid", "ipo", "hinge", "robust", "apo_zero", "apo_down"] = "sigmoid"
    """Which loss. `sigmoid` is DPO itself."""
    beta: float = Field(default=0.1, gt=0)
    """How dear it is to leave the model as it was: 0.1 is usual; 0.01 lets go further, 0.5 holds closer."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of pairs with swapped labels, under `sigmoid` and `robust`."""
    normalize: Literal["auto", "sum", "mean"] = "auto"
    """Whether a log-ratio is a sum over an answer's tokens or their mean, which does not reward length. `auto`: the
    mean under `ipo`, as its authors take it, else the sum."""
    rpo_alpha: float = Field(default=0.0, ge=0)
    """Weight of the plain loss of the preferred answers (mean over their tokens), which keeps them from becoming
    unlikely while the others do so faster (Pang et al., 2024). 0: none; 1 is usual."""

    @model_validator(mode="after")
    def _smoothing_belongs(self) -> DpoObjective:
        if self.label_smoothing and self.loss_type not in SMOOTHED:
            raise ValueError(
                f"label_smoothing changes nothing under {self.loss_type}; use sigmoid or robust, or leave it out"
            )
        if self.loss_type == "robust" and not self.label_smoothing:
            raise ValueError("robust is sigmoid without a label_smoothing; give the share of wrong labels, such as 0.1")
        return self

    @property
    def sft_weight(self) -> float:
        """Return `rpo_alpha`."""
        return self.rpo_alpha

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return one term a pair; as measures, the accuracy of the model's implicit reward and its margin."""
        assert reference is not None, "the rows bear what the model was"
        ratios = row_sums(logp - reference.to(logp), pack)
        if self.normalize == "mean" or (self.normalize == "auto" and self.loss_type == "ipo"):
            ratios = ratios / row_tokens(pack)
        chosen, rejected = split_chosen_rejected(ratios, pack)
        return Loss(
            self.pair_terms(self._each(chosen, rejected), logp, pack),
            measure_rankings(self.beta * chosen, self.beta * rejected),
        )

    def _each(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """Return (pairs,) losses from (pairs,) log-ratios."""
        from torch.nn.functional import logsigmoid

        better, worse, wrong = self.beta * chosen, self.beta * rejected, self.label_smoothing
        apart = better - worse
        if self.loss_type == "ipo":
            return (chosen - rejected - 1 / (2 * self.beta)) ** 2
        if self.loss_type == "hinge":
            return (1 - apart).relu()
        if self.loss_type == "apo_zero":
            return 1 - better.sigmoid() + worse.sigmoid()
        if self.loss_type == "apo_down":
            return better.sigmoid() + 1 - apart.sigmoid()
        if self.loss_type == "robust":
            return (wrong * logsigmoid(-apart) - (1 - wrong) * logsigmoid(apart)) / (1 - 2 * wrong)
        return -(1 - wrong) * logsigmoid(apart) - wrong * logsigmoid(-apart)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The strength of the pull to the reference, and the weight of the negative log-likelihood."""
        return {
            "beta": ParamDistribution(0.01, 0.5, log=True),
            "rpo_alpha": ParamDistribution(values=(0.0, 0.2, 1.0)),
        }
