"""The step `model_diff`: what tuning changed in a model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.step import DataRef, ModelRef, PlanContext, Reads, Step, StepContext, StepCostEstimate

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact
    from luthier.explain.diff.compare import ComparedRows


class ModelDiffStep(Step):
    """Compare a tuned model with its base on held-out rows: divergence token by token, drift of hidden states and
    weights by layer, logit lens, singular directions, and answers that changed.

    An adapter's base is the same model with the adapter switched off, so that weights are in memory once. Rules of a
    gate may use `model_diff.kl`, `model_diff.hidden`, `model_diff.weights`, `model_diff.effective_rank`,
    `model_diff.intruders`, `model_diff.changed`, `model_diff.fixed` (of labels) and `model_diff.words` (of texts).
    """

    kind: Literal["model_diff"] = "model_diff"
    makes: ClassVar[str] = "explanation"
    other_names: ClassVar[Mapping[str, str]] = {
        "max_samples": "limit", "torch_dtype": "dtype", "max_tokens": "max_new_tokens", "base": "compare_with",
    }  # fmt: skip

    data: DataRef
    """The step that made the data set."""
    model: ModelRef = None
    """The step that made the tuned model."""
    compare_with: Annotated[str | None, Reads("model", optional=True)] = None
    """The step of another model to compare with; left out, the model that it was tuned from."""
    split: Literal["test", "validation", "train"] = "test"
    """Which rows are read."""
    limit: int = Field(default=100, ge=1)
    """At most so many rows, evenly from the first to the last."""
    prompts: tuple[str, ...] = ()
    """Further questions that both models answer, such as `Who are you?`."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest written answer, for tasks of texts."""
    matrices: int = Field(default=12, ge=0)
    """How many weight matrices are compared by singular directions with those before, of layers evenly from the first
    to the last. A matrix of 4,096 by 4,096 takes about a minute on two cores."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """What the models compute in."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Compare, and write `model_diff.json` and `tokens.parquet`."""
        from luthier.explain.diff.compare import compare_models
        from luthier.explain.diff.pair import open_model_pair

        started = time.perf_counter()
        pair = open_model_pair(work.inputs["model"], work.inputs.get("compare_with"), self.dtype)
        compared = self._read_rows(work.inputs["data"], pair.after.classes)
        done, rows = 0, len(compared.examples)

        def progress(count: int) -> None:
            nonlocal done
            done += count
            work.events.progress(done, rows, "rows")

        comparison = compare_models(pair, compared, matrices=self.matrices, seed=work.seed, progress=progress)
        comparison.write(work.folder)
        work.events.note(comparison.summary.sentence)
        return {"seconds": {"comparing": time.perf_counter() - started}, "rows": comparison.summary.rows}

    def _read_rows(self, data: Artifact, classes: tuple[str, ...]) -> ComparedRows:
        from luthier.explain.diff.compare import read_compared_rows

        return read_compared_rows(
            data, classes, split=self.split, limit=self.limit, prompts=self.prompts, max_new_tokens=self.max_new_tokens
        )

    def measured(self) -> tuple[str, ...] | None:
        """Names of the numbers that a gate's rules may use."""
        from luthier.artifacts.model_diff import ModelDiff

        return tuple(f"{self.kind}.{name}" for name in ModelDiff.known_measures)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Predict from an earlier step of this kind; refuse models whose weights are not here."""
        from luthier.explain.cost import estimate_from_history
        from luthier.models.load import require_planned_weights

        require_planned_weights(plan_context)
        if self.compare_with is not None:
            require_planned_weights(plan_context, "compare_with")
        return estimate_from_history(plan_context, self.limit, "compared")
