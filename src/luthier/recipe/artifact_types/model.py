"""What is shown of models."""

from __future__ import annotations

from typing import Any, Literal

from luthier.artifacts.training import TUNED_CARD, TrainingRecord
from luthier.core.artifact import Artifact, ArtifactType


class ModelType(ArtifactType):
    """A base model, or one that was trained, searched for or merged."""

    kind: Literal["model"] = "model"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        if any(entry.path == TUNED_CARD for entry in artifact.manifest.files):
            return TrainingRecord.read(artifact).as_json()
        described: dict[str, Any] = artifact.read_json("model.json")
        return described
