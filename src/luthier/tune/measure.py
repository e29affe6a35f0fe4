"""Measuring held-out rows while a model learns: the objective's own loss, and a metric of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from luthier.metrics.answers import Answers
from luthier.metrics.metric import Metric
from luthier.metrics.resample import totals
from luthier.models.generate import label_scores, score_options
from luthier.models.lanes import read_packs
from luthier.models.logprobs import answering, logprobs
from luthier.models.options import Normalise, normalise
from luthier.models.pack import Pack
from luthier.models.sequence import names_of, plain_model
from luthier.tune.lessons import Lessons
from luthier.tune.objective import REFERENCE, Loss, Objective, Teacher, asked_of
from luthier.tune.reading import sums_of_rows

TOGETHER = 128
"""Rows that are read together."""


@dataclass(frozen=True)
class Questions:
    """Held-out rows as questions with a label each."""

    prompts: Sequence[Sequence[int]]
    choices: Sequence[Sequence[Sequence[int]]]
    """Ids of what is said for each label, for each prompt."""
    labels: Sequence[str]
    """The labels in the order of the choices."""
    references: Sequence[str]
    normalise: Normalise = "sum"
    """How a label's score is made of its tokens' log-probabilities, as the objective makes it."""


class Exam(NamedTuple):
    """What is measured, and on what."""

    objective: Objective
    lessons: Lessons
    teacher: Teacher | None = None
    metric: Metric | None = None
    questions: Questions | None = None

    def take(self, model: Any, tokens: int) -> dict[str, float]:
        """`held_out_loss`, the objective's own measures, and the metric by its name, of a model that reads at most so
        many tokens at once."""
        with torch.no_grad(), answering(model):
            found = {f"held_out_{name}": value for name, value in self._losses(model, tokens).items()}
            if self.metric is not None and self.questions is not None:
                found[f"held_out_{self.metric.kind}"] = measured(model, self.metric, self.questions, tokens)
        return found

    def _losses(self, model: Any, tokens: int) -> dict[str, float]:
        """The loss and what may decide beside it: sums over all held-out rows, by one denominator."""
        found, weight = dict.fromkeys(("loss", *self.objective.measured), 0.0), 0.0
        for begin in range(0, len(self.lessons), TOGETHER):
            numbers = range(begin, min(begin + TOGETHER, len(self.lessons)))
            rows = [row for number in numbers for row in self.lessons.rows(number)]
            rows = self.objective.prepared(rows, lambda some: sums_of_rows(model, some, tokens))
            weight += self.objective.denominator(rows)
            for _, loss in read_packs(model, rows, tokens, partial(self._loss, model)):
                found["loss"] += float(loss.total)
                for name in self.objective.measured:
                    found[name] += float(loss.measures[name])
        return {name: value / weight for name, value in found.items()}

    def _loss(self, model: Any, pack: Pack) -> Loss:
        logp, pack = asked_of(model, self.objective, self.objective.ready(pack, self.teacher), logprobs)
        return self.objective.loss(logp, pack, pack.told.get(REFERENCE))


def measured(model: Any, metric: Metric, questions: Questions, tokens: int) -> float:
    """A metric of the labels that a model finds likeliest, by the code that evaluation uses."""
    scores: list[Mapping[str, float]] = []
    named = names_of(plain_model(model))
    for begin in range(0, len(questions.prompts), TOGETHER):
        some = slice(begin, begin + TOGETHER)
        if named:
            found = label_scores(model, questions.prompts[some], tokens=tokens)
        else:
            choices = questions.choices[some]
            sums = score_options(model, questions.prompts[some], choices, tokens=tokens)
            told = [list(zip(row, map(len, own), strict=True)) for row, own in zip(sums, choices, strict=True)]
            found = [normalise(questions.normalise, row) for row in told]
        scores += [dict(zip(named or questions.labels, row, strict=True)) for row in found]
    said = [max(questions.labels, key=row.__getitem__) for row in scores]
    answers = Answers.of(said, questions.references, label_scores=scores)
    metric.check(answers)
    return float(metric.value(totals(metric.statistics(answers)))[0])
