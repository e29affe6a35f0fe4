"""The step that calibrates label sets with a promised coverage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.step import DataRef, ModelRef, PlanContext, Step, StepContext, StepCostEstimate

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact
    from luthier.explain.decisions.classifier import LabelScorer
    from luthier.explain.decisions.label_sets import LabelScores


class Conformal(Step):
    """Give each text the set of labels that it may have, which holds the right one as often as promised.

    Split conformal prediction: thresholds come from rows of one split, and coverage is measured on others. A set with
    one label is an answer; any other is an abstention. Rules of a gate may use `conformal.coverage`,
    `conformal.worst_class`, `conformal.size`, `conformal.single`, `conformal.single_accuracy` and `conformal.accuracy`.
    """

    kind: Literal["conformal"] = "conformal"
    makes: ClassVar[str] = "explanation"
    other_names: ClassVar[Mapping[str, str]] = {"method": "score", "coverage": "level", "torch_dtype": "dtype"}

    data: DataRef
    """The step that made the data set."""
    model: ModelRef = None
    """The step that made the model."""
    level: float = Field(default=0.9, gt=0, lt=1)
    """The share of sets that shall hold the right label: 1 - alpha."""
    score: Literal["lac", "aps", "raps"] = "lac"
    """How strange a label is: `lac`, 1 - its probability, with the smallest sets; `aps`, the probability of all labels
    as likely or likelier, with larger sets for harder rows; `raps`, the same with a penalty for long sets."""
    by_class: bool = False
    """Whether the level is promised for the rows of each class (Mondrian), which takes as many rows of each."""
    penalty: float = Field(default=0.01, ge=0)
    """Of `raps`: what each label beyond `free_labels` adds to its score."""
    free_labels: int = Field(default=2, ge=0)
    """Of `raps`: labels without a penalty."""
    calibrate_on: Literal["auto", "validation", "test"] = "auto"
    """The rows that thresholds come from. `auto`: `validation` where there are such rows, else `test`. Where they are
    the rows of `split`, one half calibrates and the other is measured."""
    split: Literal["test", "validation"] = "test"
    """The rows on which coverage is measured."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """What the model computes in."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Calibrate, measure, and write `conformal.json` and `label_sets.jsonl`."""
        from luthier.artifacts.decisions import LABEL_SETS, write_records
        from luthier.explain.decisions.classifier import LabelScorer
        from luthier.explain.decisions.label_sets import ConformalSettings, fit_label_sets

        started = time.perf_counter()
        data = work.inputs["data"]
        model = LabelScorer(work.inputs["model"], data, self.dtype)
        rows, notes = self._score_splits(model, data)
        settings = ConformalSettings(self.level, self.score, self.by_class, self.penalty, self.free_labels)
        summary, sets = fit_label_sets(
            (model.name, model.artifact.digest), model.labels, rows, settings, seed=work.seed, notes=notes
        )
        summary.write(work.folder)
        write_records(work.folder, LABEL_SETS, sets)
        work.events.note(summary.sentence)
        return {"seconds": {"asking": time.perf_counter() - started}, "rows": model.texts_read}

    def _score_splits(self, model: LabelScorer, data: Artifact) -> tuple[tuple[LabelScores, LabelScores], list[str]]:
        from luthier.artifacts.dataset import has_split, read_examples
        from luthier.explain.decisions.label_sets import score_rows, split_rows

        first = self.calibrate_on
        if first == "auto":
            first = "validation" if has_split(data, "validation") and self.split != "validation" else "test"
        measured = score_rows(model, read_examples(data, self.split))
        if first == self.split:
            return split_rows(measured), [f"Half of the rows of `{self.split}` calibrates, the other half is measured"]
        notes = []
        if first == "validation":
            notes.append(
                "Thresholds come from validation rows: where training chose its end by them, coverage is a little less"
            )
        return (score_rows(model, read_examples(data, first)), measured), notes

    def measured(self) -> tuple[str, ...] | None:
        """Names of the numbers that a gate's rules may use."""
        from luthier.artifacts.decisions import ConformalSummary

        return tuple(f"{self.kind}.{name}" for name in ConformalSummary.known_measures)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Refuse endpoints; the time is known once such a step has run."""
        from luthier.explain.cost import estimate_from_history, refuse_endpoint

        refuse_endpoint(plan_context)
        spec = plan_context.outlines.get("data")
        rows = sum((spec.rows or {}).get(name, 0) for name in ("validation", "test")) if spec is not None else 0
        return estimate_from_history(plan_context, rows, "asked")
