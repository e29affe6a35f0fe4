"""What a scorer says of each answer: a column that it fills."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.core.scorer import Scored, Scorer
from luthier.text.messages import question_of
from luthier.tune.reward import Attempt, Bench


def by_scorer(scorer: Scorer, column: str, attempts: Sequence[Attempt], bench: Bench) -> list[float]:
    """A column of a scorer's; NaN where it could say nothing."""
    rows = [
        Scored(question=question_of(one.example), prediction=one.text, references=one.references) for one in attempts
    ]
    found = scorer.columns(rows, bench.desk)[column]
    return [math.nan if value is None else value for value in found]
