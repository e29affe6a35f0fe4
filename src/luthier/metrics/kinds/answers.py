"""Metrics of short answers, by the rules of SQuAD: exact match and F1 over tokens.

Rajpurkar et al. 2016; the empty answer as in SQuAD 2.0 (Rajpurkar et al. 2018): right only when the reference is empty.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.metrics.metric import EvalPredictions, Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class ExactMatch(Metric):
    """Share of rows whose answer equals one of the references."""

    kind: Literal["exact_match"] = "exact_match"
    proportion: ClassVar[bool] = True
    rules: Literal["squad", "exact"] = "squad"
    """What is overlooked: `squad` case, punctuation, English articles and extra spaces; `exact` nothing."""

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        normalize = normalize_answer if self.rules == "squad" else str
        right = [
            any(normalize(prediction) == normalize(reference) for reference in references)
            for prediction, references in zip(answers.predictions, answers.references, strict=True)
        ]
        return np.stack([np.array(right, dtype=np.float64), np.ones(len(right))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)


class TokenF1(Metric):
    """Mean F1 of the words that answer and reference share; the best reference of each row counts."""

    kind: Literal["token_f1"] = "token_f1"
    about: ClassVar[Literal["classes", "texts"] | None] = "texts"

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        best = [
            max(
                compute_token_f1(normalize_answer(prediction).split(), normalize_answer(text).split())
                for text in references
            )
            for prediction, references in zip(answers.predictions, answers.references, strict=True)
        ]
        return np.stack([np.array(best), np.ones(len(best))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, English articles and extra spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def compute_token_f1(prediction: list[str], reference: list[str]) -> float:
    """F1 of the words in common, each as often as both have it."""
    if not prediction or not reference:
        return float(prediction == reference)
    shared = sum((Counter(prediction) & Counter(reference)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(reference)
    return 2 * precision * recall / (precision + recall)


def ratio_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """First column over second; 0 for no rows."""
    import numpy as np

    return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)
