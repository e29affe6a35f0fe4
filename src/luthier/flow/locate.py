"""What a person means by a word on the command line: a recipe, a step of one, an artifact's digest, a model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, UnknownName, Where
from luthier.core.store import Store
from luthier.flow.plan import Plan, plan, recipe_store
from luthier.flow.recipe import Recipe

_RECIPE_FILES = ("*.yaml", "*.yml", "*/recipe.yaml", "recipes/*/recipe.yaml")


def find_recipe(given: Path | None) -> Path:
    """The recipe that was named; or `recipe.yaml` here; or the only recipe nearby."""
    if given is not None:
        return given / "recipe.yaml" if (given / "recipe.yaml").exists() else given
    here = Path("recipe.yaml")
    if here.is_file():
        return here
    found = sorted({path for pattern in _RECIPE_FILES for path in Path().glob(pattern) if _is_recipe(path)})
    if len(found) == 1:
        return found[0]
    what = "no recipe here" if not found else f"{len(found)} recipes here: {', '.join(map(str, found[:6]))}"
    remedy = "name one" if found else "`luthier new NAME --from FILE` writes one from your data"
    raise RecipeError(what, where=Where(file=str(Path.cwd())), remedy=remedy)


def _is_recipe(path: Path) -> bool:
    """Whether a file says that it is a recipe; what cannot be read is none."""
    try:
        with path.open("rb") as file:
            return re.search(rb"^luthier\s*:", file.read(8192), re.MULTILINE) is not None
    except OSError:
        return False


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
        return Found(store_here().find(text))
    file, colon, step = text.rpartition(":")
    if not colon:
        if text.endswith((".yaml", ".yml")) and not Path(text).exists():
            raise RecipeError("there is no such recipe", where=Where(file=text), remedy="`luthier new NAME` writes one")
        message = f"wanted RECIPE:STEP or the beginning of an artifact's digest, came {text!r}"
        remedy = "for example recipe.yaml:tune; `luthier show recipe.yaml` lists its steps"
        raise UnknownName(message, where=Where(field="RECIPE:STEP"), remedy=remedy)
    recipe = Recipe.load(find_recipe(Path(file) if file else None))
    what = plan(recipe)
    return Found(what.artifact(step), what, step)


def store_here() -> Store:
    """The store of the recipe nearby, else of the current folder."""
    try:
        return recipe_store(find_recipe(None).parent)
    except RecipeError:
        return recipe_store(Path())


def recipes_near(store: Store) -> list[Path]:
    """The recipes whose artifacts a store holds: those in the folder that the store is in."""
    folder = store.root.parent
    return sorted(path for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern) if _is_recipe(path))
