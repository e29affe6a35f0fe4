"""The recipes near a person or a store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from luthier.core.errors import RecipeError, Where
from luthier.core.store import Store
from luthier.flow.source_text import is_step, read_yaml

_RECIPE_FILES = ("*.yaml", "*.yml", "*/recipe.yaml", "recipes/*/recipe.yaml")


def find_recipe(given: Path | None, *, step: str = "") -> Path:
    """The recipe that was named; or `recipe.yaml` here; or the only recipe nearby.

    `step` is what is asked of the recipe (`:tune`), for the error that says how one is named.
    """
    if given is not None:
        if not given.exists():
            _refuse_step(str(given))
        return given / "recipe.yaml" if (given / "recipe.yaml").exists() else given
    here = Path("recipe.yaml")
    if here.is_file():
        return here
    found = recipes_here()
    if len(found) == 1:
        return found[0]
    what = "no recipe here" if not found else f"{len(found)} recipes here: {', '.join(map(str, found[:6]))}"
    remedy = (
        f"name one, such as {found[0]}{step}" if found else "`luthier new NAME --from FILE` writes one from your data"
    )
    raise RecipeError(what, where=Where(file=str(Path.cwd())), remedy=remedy)


def _refuse_step(name: str) -> None:
    """`RecipeError` for the name of a step where a recipe was wanted: `--only data validate` means two steps."""
    for recipe in sorted(recipes_here(), key=lambda path: path != Path("recipe.yaml")):
        if is_step(name, _content(recipe)):
            what = f"there is no such recipe; it is the name of a step of {recipe}"
            remedy = f"`--only` stands before every step: luthier run {recipe} --only {name}"
            raise RecipeError(what, where=Where(file=name), remedy=remedy)


def _content(recipe: Path) -> Any:
    """What stands in a recipe; nothing where it cannot be read."""
    try:
        return read_yaml(recipe).data
    except RecipeError:
        return None


def recipes_here() -> list[Path]:
    """The recipes in this folder and in the folders that `new` makes in it."""
    return sorted({path for pattern in _RECIPE_FILES for path in Path().glob(pattern) if _is_recipe(path)})


def recipes_near(store: Store) -> list[Path]:
    """The recipes whose artifacts a store holds: those in the folder that the store is in."""
    folder = store.root.parent
    return sorted(path for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern) if _is_recipe(path))


def _is_recipe(path: Path) -> bool:
    """Whether a file says that it is a recipe; what cannot be read is none."""
    try:
        with path.open("rb") as file:
            return re.search(rb"^luthier\s*:", file.read(8192), re.MULTILINE) is not None
    except OSError:
        return False
