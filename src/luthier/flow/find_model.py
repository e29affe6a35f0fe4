"""Which model a person means: a step of a recipe, the last that a recipe tunes, a digest, or a base model's name."""

from __future__ import annotations

from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, RecipeError, UnknownName, Where
from luthier.flow.base_models import base_model
from luthier.flow.locate import find_artifact
from luthier.flow.nearby import find_recipe, recipes_here
from luthier.flow.plan import plan
from luthier.flow.recipe import Recipe
from luthier.models.load import data_of


def find_model(word: str | None) -> tuple[str, Artifact]:
    """What to call it, and the model."""
    if word is None or (":" not in word and Path(word).suffix in (".yaml", ".yml")):
        return _last_model(Path(word) if word else None)
    try:
        found = find_artifact(word)
    except UnknownName:
        if ":" in word:
            raise
        return word, base_model(word)
    if found.artifact.manifest.makes != "model":
        message = f"{found.name} is a {found.artifact.manifest.makes}, not a model"
        raise ModelError(message, where=Where(field=word), remedy="name the step that tunes, as RECIPE:STEP")
    return found.name, found.artifact


def _last_model(path: Path | None) -> tuple[str, Artifact]:
    """The last model that a recipe tunes."""
    if path is None and not recipes_here():
        remedy = "name a model, such as smollm2-135m-instruct; `luthier models list` shows those known by name"
        raise RecipeError("no recipe here whose model could be meant", where=Where(file=str(Path.cwd())), remedy=remedy)
    recipe = Recipe.load(find_recipe(path, step=":STEP"))
    what = plan(recipe, costs_of=())
    models = [planned for planned in what if planned.step.makes == "model"]
    names = [planned.name for planned in models if planned.step.kind != "epoch"]  # what a training was on its way
    if not names:
        raise RecipeError("this recipe makes no model", where=Where(file=recipe.file), remedy="name a model")
    return f"{recipe.name}:{names[-1]}", what.artifact(names[-1])


def chooses_classes(artifact: Artifact) -> bool:
    """Whether a model was tuned on rows that are answered with one of a few classes."""
    from luthier.text.dataset import summary

    data = data_of(artifact)
    return data is not None and summary(data).task == "label"
