"""The step `surrogate`: fits interpretable rules to a classifier."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.step import DataRef, ModelRef, PlanContext, Step, StepContext, StepCostEstimate


class SurrogateStep(Step):
    """Learn a few rules over words that say the same as a model, and measure on held-out rows how often they do.

    A small decision tree (scikit-learn) learns from the model's own labels of training rows; each leaf is a rule. Rules
    of a gate may use `surrogate.fidelity`, `surrogate.coverage`, `surrogate.overall` and `surrogate.gain`.
    """

    kind: Literal["surrogate"] = "surrogate"
    makes: ClassVar[str] = "explanation"
    other_names: ClassVar[Mapping[str, str]] = {
        "max_samples": "limit", "max_leaf_nodes": "rules", "min_samples_leaf": "min_rows", "torch_dtype": "dtype",
    }  # fmt: skip

    data: DataRef
    """The step that made the data set."""
    model: ModelRef = None
    """The step that made the model."""
    rules: int = Field(default=16, ge=2)
    """At most so many rules; cross-validation takes fewer where more are not worth it."""
    min_rows: int = Field(default=5, ge=1)
    """Rows that a rule is learnt from at least."""
    min_share: float = Field(default=0.9, gt=0, le=1)
    """A rule counts where the model gives its label to at least this share of the rows that it was learnt from."""
    words: int = Field(default=2, ge=1, le=5)
    """Longest run of words that a rule can speak of."""
    limit: int = Field(default=500, ge=10)
    """At most so many training rows and so many held-out rows are read, evenly from the first to the last."""
    split: Literal["test", "validation"] = "test"
    """The rows on which rules are measured."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """What the model computes in."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Ask the model, learn rules, and write `surrogate.json`."""
        from luthier.explain.decisions.classifier import LabelScorer
        from luthier.explain.decisions.surrogate import SurrogateSettings, fit_surrogate, read_labelled_texts

        started = time.perf_counter()
        data = work.inputs["data"]
        model = LabelScorer(work.inputs["model"], data, self.dtype)
        trained, held_out = (read_labelled_texts(model, data, split, self.limit) for split in ("train", self.split))
        summary = fit_surrogate(
            (model.name, model.artifact.digest),
            trained,
            held_out,
            SurrogateSettings(self.rules, self.min_rows, self.min_share, self.words),
            seed=work.seed,
        )
        summary.write(work.folder)
        work.events.note(summary.sentence)
        return {"seconds": {"asking": time.perf_counter() - started}, "rows": model.texts_read}

    def measured(self) -> tuple[str, ...] | None:
        """Names of the numbers that a gate's rules may use."""
        from luthier.artifacts.decisions import SurrogateSummary

        return tuple(f"{self.kind}.{name}" for name in SurrogateSummary.known_measures)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Refuse endpoints; predict from an earlier step of this kind."""
        from luthier.explain.cost import estimate_from_history, refuse_endpoint

        refuse_endpoint(plan_context)
        return estimate_from_history(plan_context, 2 * self.limit, "asked")
