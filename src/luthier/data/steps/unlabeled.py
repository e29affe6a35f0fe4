"""The step that makes a data set of the rows without a label, for annotators, rules or a model to label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from luthier.artifacts.dataset import DatasetSummary
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, RecipeError, SourceLocation
from luthier.core.step import ArtifactSpec, DataRef, PlanContext, Step, StepContext, StepCostEstimate
from luthier.data.engine.pipeline import PrepareOptions, prepare
from luthier.data.engine.reader import EMPTY_ANSWER
from luthier.data.ops.label_spelling import LabelSpelling
from luthier.data.split import Split
from luthier.data.steps.prepare import BASE_BYTES, Prepare


class UnlabeledDataset(Step):
    """Make a data set of the rows that a step `prepare` left out because they have no answer, as texts to label.

    The same source is read and the same operators work on the texts, so that personal data is redacted as in the data
    set. `luthier export` gives the rows to annotators, with the classes of the data set to choose from; the steps
    `prelabel`, `sample_for_labeling` and `label` take them too.
    """

    kind: Literal["unlabeled"] = "unlabeled"
    makes: ClassVar[str] = "dataset"

    data: DataRef
    """The step `prepare` that left the rows out."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Read the source once more, keep the rows without an answer, and note the classes of the others."""
        data = work.inputs["data"]
        before, dataset_summary = _prepared(data), DatasetSummary.read(data)
        if EMPTY_ANSWER not in dataset_summary.dropped:
            what, hint = "no row of the data set was left out for an empty answer", "leave the step out"
            raise DataError(what, where=SourceLocation(field="data"), hint=hint)
        source = before.source.model_copy(update={"unlabeled": "only", "system": None})
        operators = [operator for operator in before.ops if not isinstance(operator, LabelSpelling)]
        prepare(source, operators, Split(test=0), work, PrepareOptions(task="text"))
        kept = DatasetSummary.read(Artifact(work.folder, data.manifest, data.find))
        kept.model_copy(update={"choices": dataset_summary.labels}).write(work.folder)
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """As long as the data set took."""
        if (data := plan_context.inputs.get("data")) is None:
            return StepCostEstimate(peak_bytes=BASE_BYTES, how="the data set is not made yet")
        seconds = data.timing().get("seconds")
        return StepCostEstimate(seconds=seconds, peak_bytes=BASE_BYTES, how="as long as the data set took")

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """The rows that were left out for an empty answer, some of which operators may leave out."""
        if (data := plan_context.inputs.get("data")) is None:
            return ArtifactSpec(task="text")
        rows = DatasetSummary.read(data).dropped.get(EMPTY_ANSWER, 0)
        return ArtifactSpec(rows={"train": rows}, task="text", how="before operators drop any")


def _prepared(data: Artifact) -> Prepare:
    """The step that made the data set, with its settings."""
    if data.manifest.kind != "prepare":
        hint = "name the step `prepare` that reads the file"
        what = f"`data` names a step {data.manifest.kind!r}, which reads no source"
        raise RecipeError(what, where=SourceLocation(field="data"), hint=hint)
    return Prepare.model_validate(data.manifest.settings)
