"""What a judging model says of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luthier.models.scorers.judge import JudgeScorer as Scorer
from luthier.tune.reward import Reward, RewardCompletion, RewardContext
from luthier.tune.rewards.scored import score_with_scorer


class JudgeReward(Reward):
    """What a model behind an OpenAI-compatible endpoint gives an answer by a rubric, from 0 to 1.

    A judge can be pleased by how an answer looks; hold rewards that cannot against it (`gold`), and let people judge
    the result.
    """

    kind: Literal["judge"] = "judge"

    scorer: Scorer = Scorer()
    """Who judges, and by what: the settings of the scorer `judge`."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """From 0 to 1 for each answer."""
        return score_with_scorer(self.scorer, "judge", attempts, context)
