"""How long an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class LengthReward(Reward):
    """0 for an answer of up to `free` tokens, then falling in a line to -1 at `max` tokens and beyond.

    DAPO's soft punishment of overlong answers (Yu et al., 2025). An answer that the limit of the rollout cuts off is
    judged by what is there: see `rollout.truncated`.
    """

    kind: Literal["length"] = "length"

    free: int = Field(ge=0)
    """Tokens that cost nothing."""
    max: int = Field(ge=1)
    """Tokens from which on the reward is -1."""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.max <= self.free:
            raise ValueError(f"max ({self.max}) must be above free ({self.free})")
        return self

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """From 0 down to -1 for each answer."""
        wide = self.max - self.free
        return [-min(1.0, max(0.0, (attempt.tokens - self.free) / wide)) for attempt in attempts]
