"""What a model is, base or tuned: architecture, size, licence, template, and what training it would hold in memory."""

from __future__ import annotations

from typing import Any

from luthier.core.component import members
from luthier.flow.find_model import find_model
from luthier.models.describe import describe
from luthier.models.load import base_folder, is_plain, refuse_endpoint
from luthier.text.training import TrainingRecord

_TOKENS_A_PASS = 4096
"""The forward pass for which the memory is told."""


def describe_model(word: str) -> dict[str, Any]:
    """Facts of a base model, or of a step's: what it stands on, by which technique it was tuned."""
    from luthier.tune.technique import AnyTechnique

    name, artifact = find_model(word)
    if is_plain(artifact):
        tuned = TrainingRecord.read(artifact).as_json()
        sizes = {key: tuned[key] for key in ("features", "trainable_parameters", "rows", "classes")}
        size = sum(entry.size for entry in artifact.manifest.files)
        return {"name": name, "folder": str(artifact.folder), "technique": "plain", **sizes, "disk_bytes": size}
    refuse_endpoint(artifact)
    told = describe(base_folder(artifact))
    facts = {"name": name, "folder": str(artifact.folder)}
    if "model" in artifact.manifest.inputs:
        tuned = TrainingRecord.read(artifact).as_json()
        facts |= {key: tuned[key] for key in ("base", "trainable_parameters") if key in tuned}
        facts["technique"] = tuned["technique"]["kind"]
    memory = {}
    for kind, technique in sorted(members(AnyTechnique).items()):
        if technique.reads_model:
            memory[kind] = f"{technique.model_validate({}).footprint(told, _TOKENS_A_PASS) / 1e9:.2f} GB"
    return {**facts, **told.as_json(), f"memory_to_train_with_{_TOKENS_A_PASS}_tokens_a_pass": memory}
