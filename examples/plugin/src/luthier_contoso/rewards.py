"""Rewards: how good an answer is that the model wrote while it was tuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class Polite(Reward):
    """The share of wanted phrases that an answer holds, from 0 to 1."""

    kind: Literal["polite"] = "polite"

    phrases: tuple[str, ...] = ("please", "thank you")
    """What a polite answer says."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """One number for each answer."""
        texts = [attempt.text.casefold() for attempt in attempts]
        return [sum(phrase in text for phrase in self.phrases) / len(self.phrases) for text in texts]
