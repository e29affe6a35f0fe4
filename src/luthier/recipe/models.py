"""Find a model by name: a step of a recipe, the last trained model of a recipe, a digest, or a base model.

The module lists the known base models, downloads a base model, and describes a model: architecture, size, license,
template, and the memory of a training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.artifacts.training import TrainingRecord
from luthier.chat.prompt import PromptPrefix
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.errors import ModelError, RecipeError, SourceLocation, UnknownName
from luthier.core.events import RunEventEmitter
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.models.catalog import CATALOG, ENCODERS, resolve_model_source
from luthier.models.describe import describe_model_folder
from luthier.models.load import find_base_folder, get_training_data, is_plain_classifier, require_local_weights
from luthier.models.source import is_hub_id
from luthier.models.sources.hub import HubModelSource
from luthier.models.steps.base import BaseModelStep
from luthier.recipe.locate import CommandTarget, find_artifact, find_plan, format_step_name
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.runner import run_recipe
from luthier.recipe.schema import MODEL_STEP, Recipe
from luthier.recipe.workspace import Workspace, open_shared_store


def _recipe(workspace: Workspace, name: str) -> Recipe:
    """The smallest recipe there is: bring one model."""
    step = BaseModelStep(source=resolve_model_source(name, workspace.folder))
    return Recipe(name="base", steps={MODEL_STEP: step}).in_workspace(workspace)


def list_models(workspace: Workspace) -> list[dict[str, Any]]:
    """The catalogue, and which of it is here."""
    rows = []
    for name, entry in CATALOG.items():
        here = build_recipe_plan(_recipe(workspace, name), costs_of=())[MODEL_STEP].cached
        source = " ".join(
            str(value) for key, value in entry.source.items() if key in ("kind", "package", "version", "id")
        )
        row = {"name": name, "source": source, "licence": entry.licence, "parameters": entry.parameters, "here": here}
        rows.append(row)
    return rows


def is_base_model(workspace: Workspace, word: str) -> bool:
    """Whether a word names a base model: by the catalog, by its folder or GGUF file, or by its id on the hub."""
    path = workspace.resolve(word)
    if word in CATALOG or (path / "config.json").is_file() or (word.endswith(".gguf") and path.is_file()):
        return True
    return is_hub_id(word) and not path.exists()


def open_base_model(workspace: Workspace, name: str, events: RunEventEmitter | None = None) -> Artifact:
    """The artifact of a base model; taken from its source when it is not here."""
    return run_recipe(_recipe(workspace, name), events)[MODEL_STEP].artifact


def predict_base_spec(workspace: Workspace, name: str) -> ArtifactSpec:
    """Return what is known of a base model without downloading it, from its files or the catalogue."""
    planned_step = build_recipe_plan(_recipe(workspace, name), costs_of=())[MODEL_STEP]
    if planned_step.cached:
        return ArtifactSpec(tokenizer=open_shared_store().open(planned_step.digest).folder)
    return planned_step.step.outline(PlanContext(inputs={}, upstream={}, recipe_dir=workspace.folder))


def download_model(workspace: Workspace, name: str, events: RunEventEmitter | None = None) -> Path:
    """Download a base model or a text encoder unless it is here; returns its folder, in Hugging Face's layout.

    Files that are here are not fetched again.
    """
    step_events, is_encoder = (events or RunEventEmitter()).of(name), name in ENCODERS
    recipe_dir = workspace.folder
    source = resolve_model_source(name, recipe_dir, ENCODERS) if is_encoder else resolve_model_source(name, recipe_dir)
    is_here = not is_encoder and build_recipe_plan(_recipe(workspace, name), costs_of=())[MODEL_STEP].cached
    if isinstance(source, HubModelSource) and not is_here:
        step_events.note(f"fetching {source.id} (revision {source.revision}) from the hub")
        source.bring(lambda done, total: step_events.progress(done / 1e6, total / 1e6, "MB"), encoder=is_encoder)
    if is_encoder:
        return source.in_place(recipe_dir, step_events.note)
    return open_base_model(workspace, name, events).folder


def find_model(target: CommandTarget) -> tuple[str, Artifact]:
    """Find the model that the command line names; returns its name and artifact."""
    word = target.word or ""
    if target.word is None or target.path.suffix in (".yaml", ".yml") or target.run is not None:
        return _last_model(target)
    try:
        artifact_ref = find_artifact(target)
    except UnknownName:
        if ":" in word:
            raise
        return target.plain(), open_base_model(target.workspace, word)
    if artifact_ref.artifact.manifest.makes != "model":
        message = f"{artifact_ref.name} is a {artifact_ref.artifact.manifest.makes}, not a model"
        raise ModelError(message, where=SourceLocation(field=word), hint="name the step that tunes, as RECIPE:STEP")
    return artifact_ref.name, artifact_ref.artifact


def _last_model(target: CommandTarget) -> tuple[str, Artifact]:
    """The last model that a recipe tunes."""
    if target.word is None and not target.workspace.list_recipes():
        hint = "name a model, such as smollm2-135m-instruct; `luthier models list` shows those known by name"
        raise RecipeError("no recipe here whose model could be meant", where=target.workspace.location, hint=hint)
    recipe_plan = find_plan(target, step=":STEP")
    models = [planned for planned in recipe_plan if planned.step.makes == "model"]
    names = [planned.name for planned in models if planned.step.kind != "epoch"]  # what a training was on its way
    if not names:
        raise RecipeError(
            "this recipe makes no model", where=SourceLocation(file=recipe_plan.recipe.file), hint="name a model"
        )
    return format_step_name(recipe_plan, names[-1]), recipe_plan.artifact(names[-1], target.command)


def get_training_system_message(artifact: Artifact) -> str | None:
    """The system message with which all training rows of a tuned model began; None where they share none, or where the
    model has a chosen prompt in its place."""
    from luthier.artifacts.dataset import has_split, read_example_batches

    data = get_training_data(artifact)
    if data is None or PromptPrefix.of(artifact).instruction is not None or not has_split(data, "train"):
        return None
    shared: str | None = None
    for example in (example for batch in read_example_batches(data, "train") for example in batch):
        first = example.messages[0]
        if first.role != "system" or shared not in (None, first.content):
            return None
        shared = first.content
    return shared


def is_classification_model(artifact: Artifact) -> bool:
    """Whether a model was tuned on rows that are answered with one of a few classes."""
    from luthier.artifacts.dataset import DatasetSummary

    data = get_training_data(artifact)
    return data is not None and DatasetSummary.read(data).task == "label"


_TOKENS_A_PASS = 4096
"""The forward pass for which the memory is told."""


def describe_model(target: CommandTarget) -> dict[str, Any]:
    """Facts of a base model, or of a step's: what it stands on, by which technique it was tuned."""
    from luthier.tune.technique import TechniqueBase

    name, artifact = find_model(target)
    if is_plain_classifier(artifact):
        tuned = TrainingRecord.read(artifact).as_json()
        sizes = {key: tuned[key] for key in ("features", "trainable_parameters", "rows", "classes")}
        size = sum(entry.size for entry in artifact.manifest.files)
        return {"name": name, "folder": str(artifact.folder), "technique": "plain", **sizes, "disk_bytes": size}
    require_local_weights(artifact)
    description = describe_model_folder(find_base_folder(artifact))
    facts = {"name": name, "folder": str(artifact.folder)}
    if "model" in artifact.manifest.inputs:
        tuned = TrainingRecord.read(artifact).as_json()
        facts |= {key: tuned[key] for key in ("base", "trainable_parameters") if key in tuned}
        facts["technique"] = tuned["technique"]["kind"]
    memory = {}
    for kind, technique in sorted(components_by_kind(TechniqueBase).items()):
        if technique.reads_model:
            memory[kind] = f"{technique.model_validate({}).footprint(description, _TOKENS_A_PASS) / 1e9:.2f} GB"
    return {**facts, **description.as_json(), f"memory_to_train_with_{_TOKENS_A_PASS}_tokens_a_pass": memory}
