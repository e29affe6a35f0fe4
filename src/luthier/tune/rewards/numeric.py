"""Right or wrong, by the number that an answer ends with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luthier.metrics.members.numeric import Numeric as NumericMetric
from luthier.tune.reward import Attempt, Bench, Reward
from luthier.tune.rewards.metric import by_metric


class Numeric(Reward):
    """1 for an answer whose number is that of the answer in the data (after `####`, else the last one), else 0."""

    kind: Literal["numeric"] = "numeric"

    rules: NumericMetric = NumericMetric()
    """How numbers are read and compared: the settings of the metric `numeric`."""

    def score(self, attempts: Sequence[Attempt], bench: Bench) -> list[float]:
        """1 or 0 for each answer."""
        return by_metric(self.rules, attempts)
