"""Which model a person means: a step of a recipe, the last that a recipe tunes, a digest, or a base model's name."""

from __future__ import annotations

from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, RecipeError, UnknownName, Where
from luthier.flow.base_models import base_model
from luthier.flow.here import find_run
from luthier.flow.locate import Target, find_artifact, find_plan, step_name
from luthier.flow.nearby import recipes_here
from luthier.models.load import data_of


def find_model(named: Target | str | None) -> tuple[str, Artifact]:
    """What to call it, and the model."""
    target = Target.of(named)
    word = target.word or ""
    if target.word is None or Path(word).suffix in (".yaml", ".yml") or find_run(word) is not None:
        return _last_model(target)
    try:
        found = find_artifact(target)
    except UnknownName:
        if ":" in word:
            raise
        return target.plain(), base_model(word)
    if found.artifact.manifest.makes != "model":
        message = f"{found.name} is a {found.artifact.manifest.makes}, not a model"
        raise ModelError(message, where=Where(field=word), remedy="name the step that tunes, as RECIPE:STEP")
    return found.name, found.artifact


def _last_model(target: Target) -> tuple[str, Artifact]:
    """The last model that a recipe tunes."""
    if target.word is None and not recipes_here():
        remedy = "name a model, such as smollm2-135m-instruct; `luthier models list` shows those known by name"
        raise RecipeError("no recipe here whose model could be meant", where=Where(file=str(Path.cwd())), remedy=remedy)
    what = find_plan(target, step=":STEP")
    models = [planned for planned in what if planned.step.makes == "model"]
    names = [planned.name for planned in models if planned.step.kind != "epoch"]  # what a training was on its way
    if not names:
        raise RecipeError("this recipe makes no model", where=Where(file=what.recipe.file), remedy="name a model")
    return step_name(what, names[-1]), what.artifact(names[-1], target.command)


def chooses_classes(artifact: Artifact) -> bool:
    """Whether a model was tuned on rows that are answered with one of a few classes."""
    from luthier.text.dataset import DatasetSummary

    data = data_of(artifact)
    return data is not None and DatasetSummary.read(data).task == "label"
