"""Rewards that are a column of a scorer: a judge model, unit tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from luthier.chat.messages import user_text_of
from luthier.core.scorer import Scorer, ScorerRow
from luthier.metrics.scorers.unit_tests import UnitTestScorer as Runner
from luthier.models.scorers.judge import JudgeScorer
from luthier.tune.reward import Reward, RewardCompletion, RewardContext


def score_with_scorer(
    scorer: Scorer, column: str, attempts: Sequence[RewardCompletion], context: RewardContext
) -> list[float]:
    """Return a scorer's column; NaN where it has no value."""
    rows = [
        ScorerRow(question=user_text_of(attempt.example), prediction=attempt.text, references=attempt.references)
        for attempt in attempts
    ]
    values = scorer.columns(rows, context)[column]
    return [math.nan if value is None else value for value in values]


class JudgeReward(Reward):
    """What a model behind an OpenAI-compatible endpoint gives an answer by a rubric, from 0 to 1.

    A judge can be pleased by how an answer looks; hold rewards that cannot against it (`gold`), and let people judge
    the result.
    """

    kind: Literal["judge"] = "judge"

    scorer: JudgeScorer = JudgeScorer()
    """The judge and its rubric: the settings of the scorer `judge`."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return a score from 0 to 1 for each completion."""
        return score_with_scorer(self.scorer, "judge", attempts, context)


class UnitTestReward(Reward):
    """1 for a program that passes the tests in the data's answer, else 0; each runs locked in, see the scorer."""

    kind: Literal["unit_tests"] = "unit_tests"

    runner: Runner = Runner()
    """Limits of the sandbox: the settings of the scorer `unit_tests`. Linux on x86_64 only."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return 1 or 0 for each completion."""
        return score_with_scorer(self.runner, "passed", attempts, context)
