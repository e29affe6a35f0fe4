"""Right or wrong, by the words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luthier.metrics.kinds.answers import ExactMatch
from luthier.tune.reward import Reward, RewardCompletion, RewardContext
from luthier.tune.rewards.metric import score_with_metric


class ExactMatchReward(Reward):
    """1 for an answer that equals the one in the data, else 0."""

    kind: Literal["exact"] = "exact"

    rules: ExactMatch = ExactMatch()
    """What is overlooked: the settings of the metric `exact_match`."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """1 or 0 for each answer."""
        return score_with_metric(self.rules, attempts)
