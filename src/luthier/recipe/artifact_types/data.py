"""What is shown of data sets, and of what was found in them."""

from __future__ import annotations

from typing import Any, Literal

from luthier.artifacts.dataset import DatasetSummary
from luthier.artifacts.findings import read_findings
from luthier.artifacts.media import count_row_media
from luthier.core.artifact import Artifact, ArtifactType


class DatasetType(ArtifactType):
    """Rows to train on and rows to measure with, each with what became of it."""

    kind: Literal["dataset"] = "dataset"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        summary = DatasetSummary.read(artifact).model_dump(mode="json")
        names = ("rows_in", *(["made"] if summary.get("made") else []), "rows", "dropped", "edited", "task", "labels")
        media = count_row_media(artifact)
        shown = {"media": media.describe()} if media is not None else {}
        return {**{key: summary[key] for key in names if key in summary}, **shown}


class FindingsType(ArtifactType):
    """What checks found in a data set."""

    kind: Literal["findings"] = "findings"

    def describe(self, artifact: Artifact) -> dict[str, Any]:
        record = read_findings(artifact)
        return {
            "told": record.sentence,
            **{finding.name: f"{finding.severity}: {finding.sentence}" for finding in record.findings},
        }
