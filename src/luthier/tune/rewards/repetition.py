"""How much an answer repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class RepetitionReward(Reward):
    """Minus the share of an answer's runs of words that stood in it before: 0 when nothing is said twice."""

    kind: Literal["repetition"] = "repetition"

    n: int = Field(default=3, ge=1, le=20)
    """How many words a run has."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """From 0 down to almost -1 for each answer."""
        return [-self._repeated_share(attempt.text.lower().split()) for attempt in attempts]

    def _repeated_share(self, words: list[str]) -> float:
        runs = [tuple(words[at : at + self.n]) for at in range(len(words) - self.n + 1)]
        return 1 - len(set(runs)) / len(runs) if runs else 0.0
