"""ORPO: supervised tuning on preferred answers, with the odds of the others held down, in one stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.objective import Loss, row_sums, row_tokens
from luthier.tune.preference import RATE_SHARE, PairObjective, measure_rankings, split_chosen_rejected

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack


class Orpo(PairObjective):
    """The plain loss of the preferred answers (mean over the tokens of a step) plus -λ log σ of the log-odds ratio,
    averaged over its pairs (Hong et al., 2024).

    An answer's odds are p / (1 - p), with p the geometric mean of its tokens' probabilities. The prompt is read and not
    learnt; TRL and the authors' code also learn the prompt of the preferred answer.
    """

    kind: Literal["orpo"] = "orpo"
    rate_share: ClassVar[float] = RATE_SHARE

    weight: float = Field(default=0.1, gt=0)
    """λ, the weight of the odds ratio: 0.1 to 0.25 in the paper (TRL calls it `beta`)."""

    @property
    def sft_weight(self) -> float:
        """Return 1: the preferred answers are trained on in full."""
        return 1.0

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return the negative log-likelihood by token, and one term a pair."""
        from torch.nn.functional import logsigmoid

        odds = _log_odds(row_sums(logp, pack) / row_tokens(pack))
        better, worse = split_chosen_rejected(odds, pack)
        return Loss(
            self.pair_terms(-logsigmoid(better - worse), logp, pack, self.weight), measure_rankings(better, worse)
        )

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Around the paper's 0.1 to 0.25."""
        return {"weight": ParamDistribution(0.05, 0.5, log=True)}


def _log_odds(logp: Tensor) -> Tensor:
    """Return log p - log(1 - p) from log p < 0, without loss of digits near 0 and far from it (Mächler, 2012)."""
    import torch

    below = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    near = (-below.expm1()).log()
    far = (-below.exp()).log1p()
    return logp - torch.where(below > -math.log(2), near, far)
