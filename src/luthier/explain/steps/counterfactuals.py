"""The step that finds the smallest edits that flip a model's labels."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import DataError
from luthier.core.step import DataRef, ModelRef, PlanContext, Step, StepContext, StepCostEstimate


class Counterfactuals(Step):
    """Find the fewest words of each text whose removal or replacement flips the label that a model gives it.

    Every edit that is reported is needed: the label stays as it was when any one of them is left out. Rules of a gate
    may use `counterfactuals.flipped`, `counterfactuals.edits` and `counterfactuals.share`.
    """

    kind: Literal["counterfactuals"] = "counterfactuals"
    makes: ClassVar[str] = "explanation"
    other_names: ClassVar[Mapping[str, str]] = {"max_samples": "limit", "torch_dtype": "dtype"}

    data: DataRef
    """The step that made the data set."""
    model: ModelRef = None
    """The step that made the model."""
    split: Literal["test", "validation", "train"] = "test"
    """Which rows are edited."""
    limit: int = Field(default=20, ge=1)
    """At most so many rows, evenly from the first to the last."""
    max_edits: int = Field(default=5, ge=1)
    """At most so many words of a row are edited."""
    substitutes: int = Field(default=4, ge=0)
    """How many telling words of each other label are tried in a word's place, by the training rows; 0: words are only
    taken away."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """What the model computes in."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Search, and write `counterfactuals.json` and `counterfactuals.jsonl`."""
        from luthier.artifacts.dataset import has_split, read_evenly_spaced_examples, read_examples
        from luthier.artifacts.decisions import COUNTERFACTUALS, write_records
        from luthier.chat.messages import prompt_of
        from luthier.explain.decisions.classifier import LabelScorer
        from luthier.explain.decisions.counterfactuals import (
            EditLimits,
            find_counterfactual,
            find_label_words,
            summarize_counterfactuals,
        )

        started = time.perf_counter()
        data = work.inputs["data"]
        model = LabelScorer(work.inputs["model"], data, self.dtype)
        limits = EditLimits(self.max_edits, self.substitutes)
        trained = read_examples(data, "train") if has_split(data, "train") and self.substitutes else []
        words = find_label_words(trained, model.labels, self.substitutes)
        rows = read_evenly_spaced_examples(data, self.split, self.limit)
        found, skipped = [], Counter[str]()
        for number, row in enumerate(rows, start=1):
            try:
                found.append(
                    find_counterfactual(model, prompt_of(row), row.tools, substitutes=words, limits=limits, row=row.id)
                )
            except DataError as error:
                skipped[error.message] += 1
            work.events.progress(number, len(rows), "rows")
        summary = summarize_counterfactuals(model, found, skipped, limits, seed=work.seed)
        summary.write(work.folder)
        write_records(work.folder, COUNTERFACTUALS, found)
        work.events.note(summary.sentence)
        return {"seconds": {"searching": time.perf_counter() - started}, "rows": summary.rows}

    def measured(self) -> tuple[str, ...] | None:
        """Names of the numbers that a gate's rules may use."""
        from luthier.artifacts.decisions import CounterfactualSummary

        return tuple(f"{self.kind}.{name}" for name in CounterfactualSummary.known_measures)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Refuse endpoints; predict from an earlier step of this kind."""
        from luthier.explain.cost import estimate_from_history, refuse_endpoint

        refuse_endpoint(plan_context)
        return estimate_from_history(plan_context, self.limit, "edited")
