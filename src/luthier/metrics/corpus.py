"""A metric of all rows of a task together, such as F1 or BLEU, where a task's other scores are columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from luthier.metrics.answers import Answers
from luthier.metrics.columns import Scores
from luthier.metrics.metric import Metric, Score, measure_all
from luthier.metrics.paired import Comparison, compare


@dataclass(frozen=True, kw_only=True)
class Corpus(Scores):
    """What was said beside what is right, and the metric that they are measured by."""

    metric: Metric
    answers: Answers

    @classmethod
    def of(cls, metric: Metric, said: Sequence[str], wanted: Sequence[str]) -> Corpus:
        """One answer and one reference a row."""
        return cls(metric=metric, answers=Answers.of(list(said), list(wanted)))

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def lower_is_better(self) -> bool:
        return self.metric.better == "lower"

    @property
    def points(self) -> float:
        return 100.0 / self.metric.usual[1]

    @property
    def each(self) -> tuple[float, ...]:
        return tuple(map(float, self.metric.contributions(self.metric.statistics(self.answers))))

    def joined(self, other: Scores) -> Corpus:
        return Corpus(metric=self.metric, answers=self.answers.joined(self.alike(other).answers))

    def measured(self, seed: int) -> Score:
        return measure_all([self.metric], self.answers, seed=seed)[0]

    def against(self, name: str, other: Scores, seed: int) -> Comparison:
        found = compare(self.metric, self.answers, self.alike(other).answers, seed=seed)
        return replace(found, metric=name)
