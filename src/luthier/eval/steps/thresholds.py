"""The step that chooses a threshold for each group from an evaluation's scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.core.events import format_counted_noun
from luthier.core.files import json_bytes, write_atomically
from luthier.core.messages import gettext_noop
from luthier.core.step import PlanContext, Reads, Step, StepContext, StepCostEstimate

EvaluationIn = Annotated[str, Reads("evaluation")]


class FitThresholds(Step):
    """Choose from which probability on each group gets a label, so that all groups get it equally often.

    Learns from the scores of an evaluation: let that be one of the validation split (`split: validation`), and hold
    the thresholds against the test split by `thresholds` of another evaluation. Group thresholds treat people by their
    group; whether that is allowed is a question of law, and in many places of credit or work it is not.
    """

    kind: Literal["thresholds"] = "thresholds"
    makes: ClassVar[str] = "thresholds"

    evaluation: EvaluationIn
    """The step that made the evaluation."""
    column: str
    """The column that tells the groups apart."""
    positive: str
    """The label that is good to get."""
    constraint: Literal["demographic_parity", "equal_opportunity"] = "equal_opportunity"
    """What shall be equal: how often each group gets the label, or how often those do who should."""
    min: int = Field(default=20, ge=2)
    """Groups with fewer rows keep the likeliest label."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Fit, and write `thresholds.json`."""
        import numpy as np

        from luthier.artifacts.dataset import read_examples
        from luthier.artifacts.evaluation import EvaluationSummary
        from luthier.eval.predictions import read_answers, softmax_scores
        from luthier.eval.thresholds import FILE, Thresholds, fit_thresholds

        report = work.inputs["evaluation"]
        about = EvaluationSummary.read(report)
        if self.positive not in about.labels:
            hint = did_you_mean(self.positive, about.labels)
            raise RecipeError(f"no label is {self.positive!r}", where=SourceLocation(field="positive"), hint=hint)
        ids, answers = read_answers(report, about.subject)
        if answers.label_scores is None:
            raise RecipeError("the model gave no scores of labels", where=SourceLocation(field="evaluation"))
        values_by_id = {
            example.id: example.meta.get(self.column) for example in read_examples(report.parent("data"), about.split)
        }
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(ids):
            if values_by_id.get(name) is not None:
                rows.setdefault(str(values_by_id[name]), []).append(row)
        groups = {name: mine for name, mine in sorted(rows.items()) if len(mine) >= self.min}
        if len(groups) < 2:
            there = format_counted_noun(len(groups), "group")
            what = f"column {self.column!r} has {there} of at least {self.min} rows; two are needed"
            raise RecipeError(what, where=SourceLocation(field="column"))
        scores = answers.label_scores
        positive_probabilities = {
            g: np.array([softmax_scores(scores[row])[self.positive] for row in mine]) for g, mine in groups.items()
        }
        real = {g: np.array([self.positive in answers.references[row] for row in mine]) for g, mine in groups.items()}
        chosen = fit_thresholds(
            positive_probabilities, real, self.constraint
        )  # as they are: rounded, the one just above 1 would be 1
        thresholds = Thresholds(column=self.column, positive=self.positive, by_group=chosen)
        write_atomically(work.folder / FILE, json_bytes(thresholds.model_dump(mode="json")))
        work.events.note("; ".join(f"{group}: from {value:.3f} on" for group, value in chosen.items()))
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """It reads numbers only."""
        return StepCostEstimate(seconds=1.0, how=gettext_noop("reads an evaluation's scores"))
