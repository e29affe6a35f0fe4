"""How a model was made from data or from other models: `training.json` of its artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from luthier.core.artifact import Artifact
from luthier.core.files import json_bytes, write_atomically

TUNED_CARD = "training.json"
_Number = int | float
Part = dict[str, Any] | str
"""A part's settings with its kind, or its kind alone."""


class TrainingRecord(BaseModel):
    """How a model was trained, searched for or merged; what does not apply is left out.

    What an objective adds of its own (`Objective.card`) stands beside.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    technique: Part = {}
    objective: Part = {}
    optimizer: Part = {}
    base: str = ""
    """The name of the model that it was made from."""
    steps: int | None = None
    rows: int | None = None
    """Rows of the training split that were used."""
    rows_seen: int | None = None
    """The same, as often as each was seen."""
    learnt_tokens: int | None = None
    """Tokens that count in the loss, in one pass."""
    trainable_parameters: int | None = None
    learning_rate: _Number | None = None
    learning_rate_why: str = ""
    held_out: dict[str, Any] | None = None
    """Measures on the held-out rows, and which step was saved."""
    privacy: dict[str, Any] | None = None
    """Of a private training: unit, epsilon, delta, clip, noise, sampling and the number of units."""
    stopped: str = ""
    """Why training ended before its last step."""
    epoch: int | None = None
    """Which of a training's epochs this is."""
    classes: tuple[str, ...] = ()
    """What a sequence head or a plain classifier names."""
    features: int | None = None
    """Of a plain classifier."""
    verdict: dict[str, Any] | None = None
    """How a generative judge is asked."""
    held_back: int | None = None
    """Of a search for a prompt: rows by which prompts were scored."""
    prompts: int | None = None
    scored_rows: int | None = None
    prompt: str = ""
    prompt_why: str = ""
    merge: dict[str, Any] | None = None
    """Of a merge: the settings of its method."""
    weights: tuple[_Number, ...] = ()
    models: tuple[str, ...] = ()

    @classmethod
    def read(cls, model: Artifact) -> TrainingRecord:
        """That of a model that was made here."""
        return cls.model_validate(model.read_json(TUNED_CARD))

    def write(self, folder: Path) -> None:
        """Write `training.json` into a folder."""
        write_atomically(folder / TUNED_CARD, json_bytes(self.as_json()))

    def as_json(self) -> dict[str, Any]:
        """Everything that was given or read, by name."""
        return dict(sorted(self.model_dump(mode="json", exclude_unset=True).items()))


def describe_privacy(record: TrainingRecord) -> str:
    """What a private training promises: `ε = 3.1 at δ = 1e-05 for each customer`; that it promises nothing,
    where a part without noise was added to it; empty for any other."""
    if record.privacy is None:
        return ""
    unit = str(record.privacy["unit"]).rpartition(".")[2]
    epsilon, delta = record.privacy["epsilon"], record.privacy["delta"]
    if epsilon is None:
        return f"no promise of differential privacy for each {unit}: a part of this model was trained without noise"
    return (
        f"\N{GREEK SMALL LETTER EPSILON} = {epsilon:.3g} at \N{GREEK SMALL LETTER DELTA} = {delta:.2g} for each {unit}"
    )


def kind_of_part(part: Part) -> str:
    """The kind of a part of a training; empty where it is not said."""
    return str(part.get("kind", "")) if isinstance(part, Mapping) else part
