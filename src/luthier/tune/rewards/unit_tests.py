"""Programs that pass their tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luthier.metrics.scorers.unit_tests import UnitTestScorer as Runner
from luthier.tune.reward import Reward, RewardCompletion, RewardContext
from luthier.tune.rewards.scored import score_with_scorer


class UnitTestReward(Reward):
    """1 for a program that passes the tests in the data's answer, else 0; each runs locked in, see the scorer."""

    kind: Literal["unit_tests"] = "unit_tests"

    runner: Runner = Runner()
    """Limits of the sandbox: the settings of the scorer `unit_tests`. Linux on x86_64 only."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """1 or 0 for each answer."""
        return score_with_scorer(self.runner, "passed", attempts, context)
