"""Which explanation a step's artifact holds, read by its file."""

from __future__ import annotations

from luthier.artifacts.decisions import ConformalSummary, CounterfactualSummary, SurrogateSummary
from luthier.artifacts.explanation import ExplanationSummary
from luthier.artifacts.model_diff import ModelDiff
from luthier.core.artifact import Artifact

AnyModelExplanation = ModelDiff | CounterfactualSummary | SurrogateSummary | ConformalSummary
MODEL_EXPLANATIONS: dict[str, type[AnyModelExplanation]] = {
    shape.kind: shape for shape in (ModelDiff, CounterfactualSummary, SurrogateSummary, ConformalSummary)
}
"""What steps measure of a model beside the faithfulness of methods, by their kind."""


def read_model_explanation(artifact: Artifact) -> AnyModelExplanation | None:
    """What a step measured of a model; None where it explains rows by methods (`explain.json`)."""
    files = {entry.path for entry in artifact.manifest.files}
    return next((shape.read(artifact) for kind, shape in MODEL_EXPLANATIONS.items() if f"{kind}.json" in files), None)


def read_explanation_sentence(artifact: Artifact) -> str:
    """What any step that explains found, in a sentence."""
    measured = read_model_explanation(artifact)
    return ExplanationSummary.read(artifact).sentence if measured is None else measured.sentence
