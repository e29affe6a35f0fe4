"""The files of an evaluation that others read: what it is about (`summary.json`), and its numbers (`metrics.json`).

The room of evaluation writes them; gates, monitors, reports and exports read them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.artifact import Artifact
from luthier.core.files import json_bytes, write_atomically

SUMMARY, METRICS = "summary.json", "metrics.json"
_Number = int | float


class MetricScore(BaseModel):
    """A metric of one model, with its 95 % interval and the signature of how it was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: _Number
    low: _Number
    high: _Number
    signature: str = ""
    note: str | None = None
    """What a reader should know, such as that no row disagreed with another."""

    def as_json(self) -> dict[str, Any]:
        """Everything that was given or read."""
        return self.model_dump(mode="json", exclude_unset=True)


class ProbeOrTaskScore(MetricScore):
    """One score of one model from a probe or a benchmark task, with its row count and its parts."""

    rows: int
    detail: dict[str, Any] = {}
    """The parts behind the number, such as each group's score."""
    detectable: _Number | None = None
    """The smallest difference from nothing that so many rows show in four runs of five."""


class EvaluationMetrics(BaseModel):
    """Every number of an evaluation with its interval: `metrics.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    models: dict[str, dict[str, MetricScore]]
    """Metrics on the held-out rows, by model and metric."""
    measures: dict[str, dict[str, ProbeOrTaskScore]] = {}
    """What probes and tasks measured, by model and measure (`bias.gap`)."""

    @classmethod
    def read(cls, evaluation: Artifact) -> EvaluationMetrics:
        """Those of an evaluation."""
        return cls.model_validate(evaluation.read_json(METRICS))

    def write(self, folder: Path) -> None:
        """Write `metrics.json` into a folder."""
        write_atomically(folder / METRICS, json_bytes(self.model_dump(mode="json", exclude_unset=True)))


class EvaluatedModel(BaseModel):
    """A model that was evaluated; its scores, as the report shows them, stand beside."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str
    """The name in the files: `tuned`, `base`, `tfidf`, …"""
    title: str
    """The name as people say it."""


class EvaluationSummary(BaseModel):
    """What an evaluation is about and how it came out: `summary.json`.

    The facts that its report shows (comparisons, slices, samples, …) stand beside, by the names of `EvaluationFacts`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    task: Literal["label", "text"]
    rows: int
    subject: str
    """The model that it is about."""
    verdict_sentence: str
    """How the subject stands, in a sentence."""
    models: tuple[EvaluatedModel, ...]
    order: tuple[str, ...]
    """The names of all models, the subject first."""
    digests: dict[str, str] = {}
    """The artifacts of those models that have one, by name."""
    labels: tuple[str, ...] = ()
    split: str = "test"
    """Which rows of the data set were asked."""
    rows_digest: str = ""
    """The same for two evaluations of the same rows."""
    measured: tuple[dict[str, Any], ...] = ()
    """The settings of each metric."""

    @classmethod
    def read(cls, evaluation: Artifact) -> EvaluationSummary:
        """That of an evaluation."""
        return cls.model_validate(evaluation.read_json(SUMMARY))

    def write(self, folder: Path) -> None:
        """Write `summary.json` into a folder."""
        write_atomically(folder / SUMMARY, json_bytes(self.as_json()))

    def as_json(self) -> dict[str, Any]:
        """Everything that was given or read."""
        return self.model_dump(mode="json", exclude_unset=True)
