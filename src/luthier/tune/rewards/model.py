"""Rewards of the reward model that a step names: its score, or its yes/no verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.chat.judge_prompt import YesNoJudgePrompt
from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class ModelReward(Reward):
    """The score that the step's `reward_model` gives to the conversation with the answer.

    It was learnt from a few thousand judgments, and a policy finds what it mistakes for good: watch a `gold` reward
    beside it, and stop by `stop`.
    """

    kind: Literal["model"] = "model"
    needs_model: ClassVar[bool] = True

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return the model's score of each completion."""
        assert context.model is not None, "the step opens the reward model that its rewards need"
        return context.model([attempt.whole for attempt in attempts], [attempt.example.tools for attempt in attempts])


class VerdictReward(Reward):
    """The probability of yes against no, from 0 to 1, when the step's `reward_model` is asked by a rubric.

    Any language model will do, as it is: a larger one, or one that learnt to judge (`objective: {kind: reward, head:
    verdict}`, whose own rubric the reward `model` asks by). Two tokens are read and none is written, so that it has
    degrees where a judge behind an endpoint has few, and costs one reading.
    """

    kind: Literal["verdict"] = "verdict"
    needs_model: ClassVar[bool] = True

    asks: YesNoJudgePrompt = YesNoJudgePrompt()
    """The rubric, and the words of its answer."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return a probability for each completion."""
        assert context.model is not None, "the step opens the reward model that its rewards need"
        return [_share(odds) for odds in context.model.odds([attempt.whole for attempt in attempts], self.asks)]


def _share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > 0 else math.exp(odds) / (1 + math.exp(odds))
