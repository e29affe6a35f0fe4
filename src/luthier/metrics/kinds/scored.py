"""Metrics of numbers that a scorer gave the rows: a judge's, an encoder's, a base model's.

A row without a number (a judge that was down or answered rubbish) is a gap: it is left out, counted, and said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_rows_affected
from luthier.metrics.kinds.answers import ratio_of_sums
from luthier.metrics.metric import GREATEST, EvalPredictions, How, Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block


class ScorerMetric(Metric):
    """Base of metrics over the rows that have a number: the mean of the first column that is read."""

    held_against: ClassVar[bool] = False

    def statistics(self, answers: EvalPredictions) -> Block:
        """(rows, 2): the number and 1, or zeros for a gap."""
        import numpy as np

        numbers = [answers.columns[name] for name in self.scored]
        given = self.counted(answers)
        first = [float(number or 0.0) if there else 0.0 for number, there in zip(numbers[0], given, strict=True)]
        return np.stack([np.array(first), np.array(given, dtype=np.float64)], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)

    def counted(self, answers: EvalPredictions) -> list[bool]:
        """Rows that have all numbers."""
        rows = zip(*(answers.columns[name] for name in self.scored), strict=True)
        return [None not in row for row in rows]

    def caution(self, answers: EvalPredictions) -> str:
        gaps = self.counted(answers).count(False)
        message = format_rows_affected(
            gaps, len(answers), "has no number and is left out", "have no number and are left out"
        )
        return message if gaps else ""

    def undefined(self, answers: EvalPredictions) -> str:
        return "" if any(self.counted(answers)) else "no row has a number"


class JudgeScore(ScorerMetric):
    """Mean of what a judging model gave the answers, from 0 (the scale's least) to 1 (its most).

    Against another answer it is the share of comparisons won, ties counting half, each asked in both orders.
    """

    kind: Literal["judge_score"] = "judge_score"
    scored: ClassVar[tuple[str, ...]] = ("judge",)


class JudgeConsistency(ScorerMetric):
    """Share of comparisons in which the judge prefers the same answer when the two change places."""

    kind: Literal["judge_consistency"] = "judge_consistency"
    interval: ClassVar[str] = "wilson95 of effective rows"
    method: ClassVar[How] = "share"
    scored: ClassVar[tuple[str, ...]] = ("judge_consistent",)


class JudgeAgreement(ScorerMetric):
    """Krippendorff's alpha (interval level) between a judging model and people, both from 0 to 1, on the same rows.

    1 is full agreement, 0 what chance would give. People's scores come with the rows: `scores: {"human": 0.75}`.
    """

    kind: Literal["judge_agreement"] = "judge_agreement"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    interval: ClassVar[str] = "fisher z95 of the jackknife"
    method: ClassVar[How] = "logit"
    scored: ClassVar[tuple[str, ...]] = ("judge", "human")

    def statistics(self, answers: EvalPredictions) -> Block:
        """(rows, 4): squared difference, sum of squares, sum, and 1; zeros for a gap."""
        import numpy as np

        block = np.zeros((len(answers), 4))
        for row, (judge, human) in enumerate(zip(*(answers.columns[name] for name in self.scored), strict=True)):
            if judge is not None and human is not None:
                if not (0 <= judge <= 1 and 0 <= human <= 1):
                    what = f"row {row + 1}: scores are from 0 to 1, got {judge:g} of the judge and {human:g} of people"
                    raise DataError(what, where=SourceLocation(field="scores"), hint="bring people's scores to 0 … 1")
                block[row] = (judge - human) ** 2, judge**2 + human**2, judge + human, 1
        return block

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        apart, squares, total, rows = sums.T
        both = 2 * rows
        expected = 2 * (both * squares - total**2)
        observed = apart * both * np.maximum(both - 1, 0) / np.maximum(rows, 1)
        share = np.divide(observed, expected, out=np.where(apart > 1e-12, 2.0, 0.0), where=expected > 1e-12)
        return np.asarray(np.maximum(1 - share, -1.0))

    def contributions(self, statistics: Block) -> NDArray[np.float64]:
        """How near the two are on each row: 1 less the difference."""
        import numpy as np

        return np.asarray(1 - np.sqrt(statistics[:, 0]))


class MeanReward(ScorerMetric):
    """Mean score that the step's reward model gives the answers, on its own scale, higher for the better.

    A difference of two answers to one question is the log-odds with which it expects people to prefer the first.
    """

    kind: Literal["reward"] = "reward"
    bounds: ClassVar[tuple[float, float]] = (-GREATEST, GREATEST)
    scored: ClassVar[tuple[str, ...]] = ("reward",)


class RewardWinRate(ScorerMetric):
    """Share of rows on which the step's reward model puts the answer above the one in the data, a tie half."""

    kind: Literal["reward_wins"] = "reward_wins"
    interval: ClassVar[str] = "wilson95 of effective rows"
    method: ClassVar[How] = "share"
    scored: ClassVar[tuple[str, ...]] = ("reward_won",)


class Relevance(ScorerMetric):
    """Mean cosine between the points of question and answer in an embedder's space: are they about the same?"""

    kind: Literal["relevance"] = "relevance"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    scored: ClassVar[tuple[str, ...]] = ("relevance",)


class Faithfulness(ScorerMetric):
    """Mean probability that what was given entails the answer, by a model of inference (NLI)."""

    kind: Literal["faithfulness"] = "faithfulness"
    scored: ClassVar[tuple[str, ...]] = ("faithfulness",)


class BertScore(ScorerMetric):
    """Mean BERTScore F1: words of answer and reference matched by an encoder's states (Zhang et al. 2020)."""

    kind: Literal["bertscore"] = "bertscore"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    scored: ClassVar[tuple[str, ...]] = ("bertscore",)


class Fluency(ScorerMetric):
    """Perplexity of the answers under a base model: how natural they read, whether true or not."""

    kind: Literal["fluency"] = "fluency"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (1.0, float("inf"))
    usual: ClassVar[tuple[float, float]] = (1.0, 2.0)
    scored: ClassVar[tuple[str, ...]] = ("fluency_logprob", "fluency_tokens")

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        rows = zip(*(answers.columns[name] for name in self.scored), self.counted(answers), strict=True)
        sums = [
            (-float(logprob or 0.0), float(tokens or 0.0)) if there else (0.0, 0.0) for logprob, tokens, there in rows
        ]
        return np.array(sums)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        return np.exp(np.minimum(ratio_of_sums(sums), 700.0))  # e^700 is near the greatest float
