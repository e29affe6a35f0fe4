"""The step `epoch`: makes a model of the weights that a training kept after one of its epochs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.step import ArtifactSpec, ModelRef, PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.tune.forecast import predict_tuned_model
from luthier.tune.model_files import refuse_empty_adapter
from luthier.tune.run import EPOCHS

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact

SECONDS = 1.0
"""Seconds to copy the files."""


class SelectCheckpoint(Step):
    """Take the model as it was after an earlier epoch of a training that kept it (`save_epochs`).

    It is evaluated, served and exported like any other: so one sees which epoch was the best.
    """

    kind: Literal["epoch"] = "epoch"
    makes: ClassVar[str] = "model"

    tuned: Annotated[str, Reads("model")]
    """The step that trained."""
    epoch: int = Field(ge=1)
    """After which epoch, from 1."""
    model: ModelRef = None
    """The step whose model was tuned; the recipe's own model when not given."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write the model with its `training.json`, `training_examples.parquet` and `log.jsonl`, as if training had
        ended there.
        """
        tuned = work.inputs["tuned"]
        if tuned.manifest.inputs.get("model") != work.inputs["model"].digest:
            raise self._other_base()
        if self.epoch not in (kept := _list_saved_epochs(tuned)):
            raise self._not_kept(kept)
        shutil.copytree(tuned.path(f"{EPOCHS}/{self.epoch}"), work.folder, dirs_exist_ok=True)
        refuse_empty_adapter(work.folder)
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Refuse an epoch that will not be kept, and a base model other than that of the training."""
        from luthier.tune.steps.tune import Tune

        upstream = plan_context.upstream.get("tuned")
        if upstream is not None and not isinstance(upstream, Tune):
            raise self._not_kept(())
        if upstream is not None and self.epoch not in upstream.kept_epochs:
            raise self._not_kept(upstream.kept_epochs)
        lineage, base = plan_context.stands_on.get("tuned", ()), plan_context.stands_on.get("model", ())[:1]
        if base and base != lineage[1:2]:
            raise self._other_base()
        return StepCostEstimate(seconds=SECONDS, how="files are copied")

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict the size of its base model, and the tuned model's way of merging."""
        tuned = plan_context.outlines.get("tuned", ArtifactSpec())
        return replace(predict_tuned_model(plan_context), merging=tuned.merging, headed=tuned.headed)

    def _not_kept(self, kept: range | tuple[int, ...]) -> ModelError:
        known = f"it keeps those after {', '.join(map(str, kept))}" if kept else "it keeps none but its end"
        return ModelError(
            f"{self.tuned!r} keeps no model after epoch {self.epoch}: {known}",
            where=SourceLocation(field="epoch"),
            hint=f"set `save_epochs` in {self.tuned!r}, or take the step itself for its end",
        )

    def _other_base(self) -> ModelError:
        return ModelError(
            f"{self.tuned!r} was tuned from another model than `model`, on which its epochs do not stand",
            where=SourceLocation(field="model"),
            hint=f"name the step in `model` that {self.tuned!r} names there",
        )


def _list_saved_epochs(tuned: Artifact) -> tuple[int, ...]:
    """Return the epochs in an artifact."""
    parts = [entry.path.split("/") for entry in tuned.manifest.files]
    return tuple(sorted({int(part[1]) for part in parts if part[0] == EPOCHS and len(part) > 2}))
