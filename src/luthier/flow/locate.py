"""What a person means by a word on the command line: a step of a recipe, or an artifact's digest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, UnknownName, Where
from luthier.flow.here import find_digest
from luthier.flow.nearby import find_recipe
from luthier.flow.plan import Plan, plan
from luthier.flow.recipe import Recipe


@dataclass(frozen=True)
class Found:
    """An artifact, and the plan and step that it was found through, when it was."""

    artifact: Artifact
    plan: Plan | None = None
    step: str | None = None

    @property
    def name(self) -> str:
        """What to call it: `recipe:step`, or the beginning of its digest."""
        return f"{self.plan.recipe.name}:{self.step}" if self.plan else self.artifact.digest[:12]


def find_artifact(word: str | None) -> Found:
    """`RECIPE:STEP`, `:STEP` (of the recipe here), or the beginning of an artifact's digest."""
    text = word or ""
    if re.fullmatch(r"[0-9a-f]{6,32}", text):
        return Found(find_digest(text))
    file, colon, step = text.rpartition(":")
    if not colon:
        if text.endswith((".yaml", ".yml")) and not Path(text).exists():
            raise RecipeError("there is no such recipe", where=Where(file=text), remedy="`luthier new NAME` writes one")
        message = f"wanted RECIPE:STEP or the beginning of an artifact's digest, came {text!r}"
        remedy = "for example recipe.yaml:tune; `luthier show recipe.yaml` lists its steps"
        raise UnknownName(message, where=Where(field="RECIPE:STEP"), remedy=remedy)
    recipe = Recipe.load(find_recipe(Path(file) if file else None, step=f":{step}"))
    what = plan(recipe, costs_of=())
    return Found(what.artifact(step), what, step)
