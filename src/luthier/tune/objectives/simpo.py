"""SimPO: preferred answers likelier a token than the others, by a margin, with no reference model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.tune.objective import Loss, LossTerms, row_sums, row_tokens
from luthier.tune.preference import (
    RATE_SHARE,
    PairObjective,
    add_sft_weights,
    compute_sft_terms,
    measure_rankings,
    split_chosen_rejected,
)

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack, TokenRow


class Simpo(PairObjective):
    """-log σ(β (p - q) - γ), with p and q the mean log-probability of a token of the preferred and of the other answer,
    averaged over the pairs of a step (Meng et al., 2024).

    Nothing holds the model to what it was but the learning rate, which its authors set ten times lower than for `dpo`.
    """

    kind: Literal["simpo"] = "simpo"
    rate_share: ClassVar[float] = RATE_SHARE

    beta: float = Field(default=2.0, gt=0)
    """What the difference is multiplied by: 2 to 2.5 in the paper, 10 for the largest models."""
    gamma: float = Field(default=1.0, ge=0)
    """The margin by which the preferred answer must be ahead before the loss lets go; half of `beta` is usual."""
    cpo_alpha: float = Field(default=0.0, ge=0)
    """Weight of the plain loss of the preferred answers (mean over their tokens): SimPO with CPO's term."""

    def prepared(
        self, rows: Sequence[TokenRow], read: Callable[[Sequence[TokenRow]], Sequence[float]]
    ) -> list[TokenRow]:
        """The rows with the factors of the plain loss."""
        return add_sft_weights(rows, self.cpo_alpha) if self.cpo_alpha else list(rows)

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """One term a pair, and the plain loss by token."""
        from torch.nn.functional import logsigmoid

        better, worse = split_chosen_rejected(self.beta * row_sums(logp, pack) / row_tokens(pack), pack)
        parts = [LossTerms.of_examples(-logsigmoid(better - worse - self.gamma))]
        if self.cpo_alpha:
            parts.append(compute_sft_terms(logp, pack))
        return Loss(parts, measure_rankings(better, worse))
