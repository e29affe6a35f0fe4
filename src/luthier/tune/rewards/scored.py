"""What a scorer says of each answer: a column that it fills."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.chat.messages import user_text_of
from luthier.core.scorer import Scorer, ScorerRow
from luthier.tune.reward import RewardCompletion, RewardContext


def score_with_scorer(
    scorer: Scorer, column: str, attempts: Sequence[RewardCompletion], context: RewardContext
) -> list[float]:
    """A column of a scorer's; NaN where it could say nothing."""
    rows = [
        ScorerRow(question=user_text_of(attempt.example), prediction=attempt.text, references=attempt.references)
        for attempt in attempts
    ]
    found = scorer.columns(rows, context)[column]
    return [math.nan if value is None else value for value in found]
