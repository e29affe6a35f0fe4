"""Online DPO: of several answers of the model's own the best and the worst become a pair, and DPO learns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from luthier.core.param_space import ParamDistribution
from luthier.tune.objective import REFERENCE, Loss, LossTerms, row_sums
from luthier.tune.policy import ADVANTAGE, PolicyObjective
from luthier.tune.preference import measure_rankings, split_chosen_rejected
from luthier.tune.rollout.settings import RolloutSettings

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.packing.pack import Pack, TokenRow
    from luthier.tune.rollout.scores import RolloutBatch


class OnlineDpo(PolicyObjective):
    """DPO on pairs that the model writes and the rewards judge, averaged over the pairs of a step (Guo et al., 2024).

    With c and r the log-ratios between the model and the model as it began, of the best answer to a prompt and of the
    worst: `sigmoid` -log σ(β (c - r)), `ipo` (c - r - 1 / 2β)². A prompt whose answers are all worth the same gives no
    pair. It asks of rewards an order, nothing more, and needs no correction for how an answer was drawn.
    """

    kind: Literal["online_dpo"] = "online_dpo"

    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """Which loss of the pair."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull to the initial model: 0.1 is usual; 0.01 lets the model move further, 0.5 keeps it
    closer."""

    @field_validator("rollout")
    @classmethod
    def _two(cls, value: RolloutSettings) -> RolloutSettings:
        if value.num_generations < 2:
            raise ValueError("a pair is made of at least 2 `num_generations`")
        return value

    @property
    def compares(self) -> bool:
        """Return True: the best answer is compared with the worst."""
        return True

    @property
    def needs_initial_policy(self) -> bool:
        """Return True: the loss contains the initial model."""
        return True

    def advantages(self, judged: RolloutBatch) -> list[list[float]]:
        """Return 1 for the best answer to a prompt, -1 for the worst (of equal ones the first), else 0."""
        import numpy as np

        from luthier.tune.rollout.scores import broadcast_to_tokens

        worth = np.where(judged.lengths > 0, judged.scores, np.nan)
        marks = np.zeros_like(worth)
        for prompt, row in enumerate(worth):
            if np.isfinite(row).any() and np.nanmax(row) > np.nanmin(row):
                marks[prompt, np.nanargmax(row)], marks[prompt, np.nanargmin(row)] = 1.0, -1.0
        return broadcast_to_tokens(marks, judged.lengths)

    @property
    def trained_completions(self) -> int:
        """Return 2."""
        return 2

    def weight(self, tokens: int) -> float:
        """Return 1: an answer's log-ratio is a sum over its tokens."""
        return 1.0

    def arrange_rows(self, rows: Sequence[TokenRow]) -> list[TokenRow]:
        """Return the pairs, the best answer first; a pair is never split between packs."""
        marked = super().arrange_rows(rows)
        pairs = zip(marked[::2], marked[1::2], strict=True)
        return [
            replace(row, group_size=2)
            for pair in pairs
            for row in sorted(pair, key=lambda row: -row.token_values[ADVANTAGE][0])
        ]

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the number of pairs."""
        return max(1.0, len(super().arrange_rows(rows)) / 2)

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return one term a pair; as measures, the accuracy against the order of the rewards, and the margin."""
        from torch.nn.functional import logsigmoid

        ratios = row_sums(logp - pack.token_values[REFERENCE].to(logp), pack)
        best, worst = split_chosen_rejected(ratios, pack)
        apart = best - worst
        each = -logsigmoid(self.beta * apart) if self.loss_type == "sigmoid" else (apart - 1 / (2 * self.beta)) ** 2
        return Loss([LossTerms.of_examples(each)], measure_rankings(self.beta * best, self.beta * worst))

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The strength of the pull to the initial model."""
        return {"beta": ParamDistribution(0.01, 0.5, log=True)}
