"""What a trained reward model says of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class ModelReward(Reward):
    """The score that the step's `reward_model` gives to the conversation with the answer.

    It was learnt from a few thousand judgments, and a policy finds what it mistakes for good: watch a `gold` reward
    beside it, and stop by `stop`.
    """

    kind: Literal["model"] = "model"
    needs_model: ClassVar[bool] = True

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """The model's number for each answer."""
        assert context.model is not None, "the step opens the reward model that its rewards need"
        return context.model([attempt.whole for attempt in attempts], [attempt.example.tools for attempt in attempts])
