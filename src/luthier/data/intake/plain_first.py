"""Whether a plain classifier should be tried before a network is tuned: where rows of classes are few, or texts long.

Few: on seven draws of 188 to 400 short rows of five to twelve classes, SmolLM2-135M under LoRA was ahead of TF-IDF with
logistic regression by 8 points on one, and within 2 points of it on six (the tables of `luthier.data.intake.course`).
Long: a network's time grows with every token that it reads; a classifier of words takes seconds in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.counted import counted
from luthier.data.profile import Profile

FEW_ROWS = 400
LONG_WORDS = 200
"""Of a prompt on average: some 270 tokens."""


def why_plain_first(profile: Profile, source: Mapping[str, Any], rows: int) -> str:
    """Why; empty where a network may well be the first thing to try. `rows` are those that will be trained on."""
    reasons = []
    if rows <= FEW_ROWS:
        reasons.append(f"{counted(rows, 'row')} to train on are few")
    prompt = str(source.get("prompt", ""))
    asked = [column for name, column in profile.columns.items() if name == prompt or f"{{{name}}}" in prompt]
    words = sum(column.mean_words for column in asked)
    if words >= LONG_WORDS:
        reasons.append(f"texts are long ({counted(round(words), 'word')} on average)")
    if not reasons:
        return ""
    return f"{' and '.join(reasons)}: a plain classifier takes seconds, and may do as well"
