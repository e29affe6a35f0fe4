"""The step `merge`: merges several models tuned from the same base."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.artifacts.training import TUNED_CARD, TrainingRecord
from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, ModelError, SourceLocation
from luthier.core.step import ArtifactSpec, Merging, ModelRef, PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.models.cost import find_tokenizer_folder, has_sequence_head, predict_derived_model
from luthier.models.describe import describe_model_folder, list_weight_files
from luthier.models.load import find_base_folder, get_model_name, get_weights_artifact, require_planned_weights
from luthier.models.merge import Merger
from luthier.models.mergers.linear import LinearMerger
from luthier.models.source import list_model_files, write_config_dtype, write_json

PARAMETERS_PER_SECOND = 20e6
"""Parameters of one model that are read, merged and written in a second, by one core of a laptop."""
BASE_BYTES = 450 << 20
"""Memory of Python with torch and transformers before any model."""


class Merge(Step):
    """Merge models that were tuned from the same base into one: their changes to its weights become one change.

    The result is a whole model in float32, whether the models are adapters or whole ones themselves.
    """

    kind: Literal["merge"] = "merge"
    makes: ClassVar[str] = "model"

    models: Annotated[tuple[str, ...], Reads("model"), Field(min_length=2)]
    """The steps whose models are merged."""
    model: ModelRef = None
    """The step whose model they were all tuned from; the recipe's own model when not given."""
    weights: tuple[float, ...] | None = None
    """How much each model counts, in the order of `models`. When not given, each counts the same: `linear` and `dare`
    take the mean of the changes, TIES averages what agrees."""
    method: Merger = LinearMerger()
    """How changes become one."""
    dequantize: bool = False
    """Whether a model that was learnt over a quantized base may be merged, as what the base's codes stand for: its
    change then holds their rounding, too. Otherwise it is refused."""

    @model_validator(mode="after")
    def _one_weight_a_model(self) -> Merge:
        if self.weights is not None and len(self.weights) != len(self.models):
            raise ValueError(f"there are {len(self.models)} models and {len(self.weights)} weights; give one for each")
        if twice := next((name for name in self.models if self.models.count(name) > 1), None):
            raise ValueError(f"{twice!r} is named twice in `models`; give it a larger weight instead")
        if self.weights is not None and not any(self.weights):
            raise ValueError("all weights are 0, so that the base comes out; give at least one model another")
        return self

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write the merged model's folder, `training.json` and `training_examples.parquet`."""
        from luthier.models.merge import build_change_combiner, is_tuned_from, merge_weights

        started = time.perf_counter()
        base, models = work.inputs["model"], self._inputs(work.inputs)
        for at, model in enumerate(models):
            if not is_tuned_from(model, base):
                raise self._other_base(at)
            if get_weights_artifact(model) is not model:
                raise self._only_a_prompt(at)
        differs = merge_weights(
            base,
            models,
            build_change_combiner(self.method, self.shares(), work.seed),
            dequantize=self.dequantize,
            folder=work.folder,
            scratch=work.scratch,
            progress=lambda done, total: work.events.progress(done, total, "weights"),
        )
        if not differs:
            work.events.warning("nothing of the changes is kept: the merged model is its base")
        self._finish(base, models, work.folder)
        seconds = time.perf_counter() - started
        return {"parameters_per_s": describe_model_folder(work.folder).parameters * (len(models) + 1) / seconds}

    def shares(self) -> tuple[float, ...]:
        """The weight of each model."""
        return self.weights or (self.method.share(len(self.models)),) * len(self.models)

    def _inputs(self, inputs: Mapping[str, Any]) -> list[Any]:
        return [inputs[f"models.{at}"] for at in range(len(self.models))]

    def _other_base(self, at: int) -> ModelError:
        return ModelError(
            f"{self.models[at]!r} was not tuned from the model that is merged over, so its change to it means nothing",
            where=SourceLocation(field=f"models.{at}"),
            hint="name the common base in `model`, or tune both from the same one",
        )

    def _only_a_prompt(self, at: int) -> ModelError:
        return ModelError(
            f"{self.models[at]!r} is a prompt in front of a model: it has no change to the weights to merge",
            where=SourceLocation(field=f"models.{at}"),
            hint="leave it out; to keep its prompt, tune weights over it and merge those",
        )

    def _check_merging(self, at: int, merging: Merging) -> None:
        """Refuse a model that cannot be merged before it is trained."""
        where = SourceLocation(field=f"models.{at}")
        if merging == "never":
            what = f"what {self.models[at]!r} learns stands beside the weights and cannot be merged into them"
            hint = "leave it out, or tune it by a technique that changes weights, such as lora"
            raise ModelError(what, where=where, hint=hint)
        if merging == "tied":
            what = f"what {self.models[at]!r} learns at the output head cannot be merged: it is one with the embeddings"
            hint = "leave it out, or tune it without the head among `target_modules`"
            raise ModelError(what, where=where, hint=hint)
        if merging == "dequantized" and not self.dequantize:
            what = f"{self.models[at]!r} learns over quantized weights, whose few bits cannot hold the sum"
            hint = "`dequantize: true` merges it into what they stand for, or tune it by lora"
            raise ModelError(what, where=where, hint=hint)

    def _other_head(self, at: int) -> ModelError:
        return ModelError(
            f"{self.models[at]!r} has a head of its own in place of the words of the model that is merged over, which "
            "has none to merge it into",
            where=SourceLocation(field=f"models.{at}"),
            hint="leave it out, or tune it with an objective that keeps the language head, such as "
            "`{kind: classify, head: label}`",
        )

    def _check_dequantize(self, plan_context: PlanContext) -> None:
        """Refuse `dequantize` where no model was trained over quantized weights."""
        artifact_specs = [
            plan_context.outlines.get(field) for field in ("model", *(f"models.{at}" for at in range(len(self.models))))
        ]
        if self.dequantize and all(
            artifact_spec is not None and artifact_spec.merging == "plain" for artifact_spec in artifact_specs
        ):
            what = "none of these models is learnt over quantized weights, so `dequantize` changes nothing"
            raise InputError(what, where=SourceLocation(field="dequantize"), hint="leave it out")

    def _finish(self, base: Artifact, models: Sequence[Artifact], folder: Path) -> None:
        for path in list_model_files(find_base_folder(base)):
            target = folder / path.relative_to(find_base_folder(base))
            if path not in list_weight_files(find_base_folder(base)) and path.name != "README.md":
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
        write_config_dtype(folder)
        record = {
            "technique": {"kind": "merge"},
            "merge": self.method.settings(),
            "weights": list(self.shares()),
            "base": get_model_name(base),
            "models": [get_model_name(model) for model in models],
        }
        write_json(folder / TUNED_CARD, TrainingRecord.model_validate(record).as_json())
        _write_learnt(folder / "training_examples.parquet", models)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Estimate from the size of the models; refuses those with another base or that cannot be merged."""
        for field in ("model", *(f"models.{at}" for at in range(len(self.models)))):
            require_planned_weights(plan_context, field)
        base, headed = plan_context.stands_on.get("model", ())[:1], has_sequence_head(plan_context)
        for at in range(len(self.models)):
            if not {*base} <= {*plan_context.stands_on.get(f"models.{at}", base)}:
                raise self._other_base(at)
            expected = plan_context.outlines.get(f"models.{at}", ArtifactSpec())
            self._check_merging(at, expected.merging)
            if has_sequence_head(plan_context, f"models.{at}") and not headed:
                raise self._other_head(at)
        self._check_dequantize(plan_context)
        parameters = self.outline(plan_context).parameters
        if parameters is None:
            return StepCostEstimate(how="unknown until the base model is here")
        measured = plan_context.history.get("measures", {}).get("parameters_per_s")
        seconds = 5 + parameters * (len(self.models) + 1) / (measured or PARAMETERS_PER_SECOND)
        how = f"{len(self.models)} models at the speed {'of the last merging here' if measured else 'of a laptop'}"
        return StepCostEstimate(seconds=seconds, peak_bytes=BASE_BYTES + 2 * 4 * parameters, how=how)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict the size and head of the base model."""
        artifact, expected = plan_context.inputs.get("model"), plan_context.outlines.get("model", ArtifactSpec())
        size = (
            describe_model_folder(find_base_folder(artifact)).parameters
            if artifact is not None
            else expected.parameters
        )
        how = "of the model it stands on"
        artifact_spec = predict_derived_model(plan_context)
        return replace(
            artifact_spec,
            parameters=size,
            tokenizer=find_tokenizer_folder(plan_context),
            headed=has_sequence_head(plan_context),
            how=how,
        )


def _write_learnt(path: Path, models: Sequence[Artifact]) -> None:
    """Write the training rows of all merged models: each example as often as all of them saw it."""
    import polars

    parts = [
        polars.read_parquet(model.path("training_examples.parquet"))
        for model in models
        if any(entry.path == "training_examples.parquet" for entry in model.manifest.files)
    ]
    if len(parts) == len(models):
        every = polars.concat(parts, how="diagonal_relaxed").group_by("id", maintain_order=True)
        times = ("seen", "taught")
        every.agg(polars.col(times).sum(), polars.exclude(times).first()).write_parquet(path)
