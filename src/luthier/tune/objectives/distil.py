"""Distillation: make the model say what a teacher finds likely, token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.chat.messages import Example
from luthier.core.param_space import ParamDistribution
from luthier.tune.objective import NOTHING, Loss, LossTerms, Objective, ObjectiveContext, Teacher, TrainingExample
from luthier.tune.objectives.sft import Sft

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.packing.pack import Pack, TokenRow

Divergence = Literal["forward", "reverse", "jensen_shannon", "skewed"]
_USUAL = {"jensen_shannon": 0.5, "skewed": 0.1}
"""Default mixing shares: Agarwal et al. (2024) and Ko et al. (2024, DistiLLM)."""


class Distil(Objective):
    """A divergence between a teacher's and the model's next tokens, averaged as `sft` averages its own loss.

    At each learnt token the teacher's `top_k` likeliest tokens stand for themselves and all others for one: with p the
    teacher's and q the model's shares of these K + 1 outcomes, at `temperature`,

        forward          KL(p ‖ q) = Σ p log(p / q)                        (Hinton et al., 2015)
        reverse          KL(q ‖ p)                                         (Gu et al., 2023, MiniLLM)
        jensen_shannon   β KL(p ‖ m) + (1 - β) KL(q ‖ m), m = β p + (1 - β) q  (Agarwal et al., 2024, GKD)
        skewed           KL(p ‖ β p + (1 - β) q)                           (Ko et al., 2024, DistiLLM)

    times temperature², so that its gradient keeps its size (Hinton et al.). It is exact for these outcomes, never more
    than the divergence over the whole vocabulary, and equal to it when `top_k` reaches the vocabulary.
    """

    kind: Literal["distil"] = "distil"
    needs_teacher: ClassVar[bool] = True

    divergence: Divergence = "forward"
    """How the two are compared: `forward` spreads the model over all that the teacher finds possible, `reverse` keeps
    it to what the teacher finds likely; the others stand between."""
    beta: float | None = Field(default=None, gt=0, lt=1)
    """The teacher's share in the mixture that `jensen_shannon` (0.5 when not given) and `skewed` (0.1) compare with."""
    top_k: int = Field(default=64, ge=1)
    """Tokens of the teacher that stand for themselves: 64 hold nearly all of its probability, in 512 bytes a token."""
    temperature: float = Field(default=1.0, gt=0)
    """What both models' logits are divided by: above 1 the teacher's less likely tokens teach more."""
    alpha: float = Field(default=1.0, gt=0, le=1)
    """Share of the divergence; the rest is the plain loss of `sft` on the written answers."""
    logits: Literal["stored", "live"] = "stored"
    """`stored`: the teacher reads all rows once before training and is closed again, which is quicker from the second
    epoch on and needs no memory for two models. `live`: it reads each pack again at each step, and nothing is kept."""
    rows: Sft = Sft()
    """What is read and which tokens are learnt: the settings of `sft`."""

    @model_validator(mode="after")
    def _beta_belongs(self) -> Distil:
        if self.beta is not None and self.divergence not in _USUAL:
            raise ValueError(f"beta mixes in jensen_shannon and skewed; {self.divergence} has no mixture, leave it out")
        return self

    @property
    def stored(self) -> bool:
        """Return whether the teacher's predictions are stored with the examples."""
        return self.logits == "stored"

    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """Return the rows of `sft`."""
        return self.rows.build_training_examples(examples, text, about)

    def ready(self, pack: Pack, teacher: Teacher | None) -> Pack:
        """Return the pack with the teacher's likeliest tokens: those stored in its rows, else computed now."""
        from luthier.models.packing.logprobs import compute_top_tokens

        if pack.choices is not None:
            return replace(pack, temperature=self.temperature)
        assert teacher is not None, "the step opens the teacher that its objective needs"
        return compute_top_tokens(
            teacher.model, pack, self.top_k, below=teacher.vocabulary, temperature=self.temperature
        )

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the total weight of the trained tokens."""
        return self.rows.denominator(rows)

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return the divergence at each token, and minus the log-probability of the written token."""
        assert pack.teacher is not None, "the pack was made ready"
        weights = pack.weights.to(logp)
        apart, plain = self._compute_divergence(pack.teacher.to(logp), logp[:, 1:]) * self.temperature**2, -logp[:, 0]
        measures = {"divergence": weights * apart.detach(), "written_loss": weights * plain.detach()}
        shares = zip((apart, plain), (self.alpha, 1 - self.alpha), strict=True)
        return Loss([LossTerms.of_tokens(values, share * weights, pack) for values, share in shares], measures)

    def _compute_divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return (N,) divergences from (N, K) log-probabilities of the same tokens."""
        p, q = append_rest_logprob(teacher), append_rest_logprob(student)
        if self.divergence == "forward":
            return _kl(p, q)
        if self.divergence == "reverse":
            return _kl(q, p)
        beta = _USUAL[self.divergence] if self.beta is None else self.beta
        mixed = (p + math.log(beta)).logaddexp(q + math.log(1 - beta))
        if self.divergence == "skewed":
            return _kl(p, mixed)
        return beta * _kl(p, mixed) + (1 - beta) * _kl(q, mixed)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The temperature, and the weight of the written answers."""
        return {
            "temperature": ParamDistribution(1.0, 4.0, log=True),
            "alpha": ParamDistribution(0.25, 1.0),
        }


def append_rest_logprob(logps: Tensor) -> Tensor:
    """Return (N, K) log-probabilities with that of all other tokens appended.

    A rest that is within rounding of zero counts as 8 times the rounding of 1, without a gradient.
    """
    import torch

    least = 8 * torch.finfo(logps.dtype).eps
    rest = (1 - logps.exp().sum(-1, keepdim=True)).clamp(min=least).log()
    return torch.cat([logps, rest], -1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """(N,) Σ p log(p / q), from log-probabilities."""
    return (p.exp() * (p - q)).sum(-1)
