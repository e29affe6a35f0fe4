"""Right or wrong, by the number that an answer ends with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luthier.metrics.kinds.numeric import NumericMatch as NumericMetric
from luthier.tune.reward import Reward, RewardCompletion, RewardContext
from luthier.tune.rewards.metric import score_with_metric


class NumericReward(Reward):
    """1 for an answer whose number is that of the answer in the data (after `####`, else the last one), else 0."""

    kind: Literal["numeric"] = "numeric"

    rules: NumericMetric = NumericMetric()
    """How numbers are read and compared: the settings of the metric `numeric`."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """1 or 0 for each answer."""
        return score_with_metric(self.rules, attempts)
