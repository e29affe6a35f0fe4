"""Probe of style bias in preferences: length and markup, before and after tuning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from luthier.core.errors import RecipeError, SourceLocation
from luthier.eval.probe import Probe, ProbeContext, ProbeMeasure
from luthier.eval.results import SummedStatistic, compute_probe_measures, compute_ratio
from luthier.eval.task import FIRST, SECOND, build_answer_pair

if TYPE_CHECKING:
    from luthier.metrics.intervals import Floats
    from luthier.metrics.metric import EvalPredictions

_MARKUP = re.compile(r"^[^\S\n]*(?:[-*+•]|\d+[.)]|#{1,6})\s|\*\*|__|`", re.MULTILINE)


class _Counted(NamedTuple):
    """A number of each answer of a row, in the order in which they are shown, and which of them people preferred."""

    first: int
    second: int
    label: str


class StyleBiasProbe(Probe):
    """Which of two answers a model prefers when one is longer, or has more lists, headings and bold: shares of pairs.

    `preference.longer` and `preference.markup` count pairs in which the two differ so; the detail `people` says how
    often people did the same, and a model that does it much more often has learnt looks. `preference.lift` is the share
    of pairs in which tuning raised the preferred answer more than the other one (the accuracy of DPO's own reward);
    0.5 is chance. It stands in every evaluation of pairs, and is named in `probes` where a gate asks for it.
    """

    kind: Literal["preference"] = "preference"
    measures: ClassVar[tuple[str, ...]] = ("preference.longer", "preference.markup", "preference.lift")

    def measure(self, context: ProbeContext) -> list[ProbeMeasure]:
        if not context.task.pairs:
            what = "preference is about pairs of answers, and these rows hold none"
            raise RecipeError(
                what, where=SourceLocation(field="probes"), hint="take it out, or give `chosen` and `rejected`"
            )
        offers = [(build_answer_pair(example).answers, str(example.label)) for example in context.task.examples]
        lengths = [_Counted(len(one), len(other), label) for (one, other), label in offers]
        marks = [_Counted(_marks(one), _marks(other), label) for (one, other), label in offers]
        return [
            *_leaning("preference.longer", lengths, context),
            *_leaning("preference.markup", marks, context),
            *_lift(context),
        ]


def _leaning(name: str, rows: Sequence[_Counted], context: ProbeContext) -> list[ProbeMeasure]:
    """The share of rows in which each model prefers the answer with the higher number, among those that differ."""
    import numpy as np

    differ = [at for at, row in enumerate(rows) if row.first != row.second]
    higher = [FIRST if rows[at].first > rows[at].second else SECOND for at in differ]
    people = sum(rows[at].label == label for at, label in zip(differ, higher, strict=True)) / max(1, len(differ))
    blocks: dict[str, Floats] = {
        model: np.array(
            [[float(model_answers.predictions[at] == label), 1.0] for at, label in zip(differ, higher, strict=True)]
        )
        for model, model_answers in context.answers.items()
    }
    return compute_probe_measures(
        SummedStatistic(name=name, value=compute_ratio, proportion=True),
        blocks,
        context,
        {model: {"people": people} for model in blocks},
    )


def _lift(context: ProbeContext) -> list[ProbeMeasure]:
    """Return how often tuning raised the preferred answer more, for a language model and its base."""
    import numpy as np

    able = [
        name
        for name, eval_model in context.eval_models.items()
        if eval_model.is_model and "loglikelihood" in eval_model.able
    ]
    if able[:2] != ["tuned", "base"]:
        return []
    labels = [str(example.label) for example in context.task.examples]
    tuned, base = (_margins(context.answers[name], labels) for name in able[:2])
    block = np.array([[float(now > then), 1.0] for now, then in zip(tuned, base, strict=True)])
    return compute_probe_measures(
        SummedStatistic(name="preference.lift", value=compute_ratio, proportion=True), {"tuned": block}, context
    )


def _margins(answers: EvalPredictions, labels: Sequence[str]) -> list[float]:
    """By how much the preferred answer is ahead in each row."""
    scores = answers.label_scores or ()
    return [row[label] - row[SECOND if label == FIRST else FIRST] for row, label in zip(scores, labels, strict=True)]


def _marks(text: str) -> int:
    return len(_MARKUP.findall(text))
