"""Recorded runs: which there are, and what one of them made, with its recipe and overrides as they were."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from luthier.core.errors import UnknownName, Where
from luthier.core.ledger import Ledger, Run, ledger_url
from luthier.flow.here import folder_here
from luthier.flow.nearby import find_recipe
from luthier.flow.plan import Plan, Planned, has_ledger, recipe_store
from luthier.flow.recipe import Recipe
from luthier.flow.source_text import override, parse_yaml


def list_runs(recipe: Path | None, *, limit: int) -> list[Run]:
    """The latest runs in the folder that is meant, or those of one recipe in it; the latest first."""
    loaded = Recipe.load(find_recipe(recipe)) if recipe is not None else None
    store = recipe_store(loaded.base if loaded is not None else folder_here())
    if not has_ledger(store):
        return []
    with Ledger(ledger_url(store.root)) as ledger:
        if loaded is None:
            return ledger.runs(limit=limit)
        return ledger.runs_of(loaded.name, str(loaded.base.absolute()), limit=limit)


def run_facts(run: Run) -> dict[str, Any]:
    """A run as `luthier runs --json` prints it."""
    return run.model_dump(mode="json", exclude={"recipe_text", "recipe_digest"})


def recipe_of_run(run: Run) -> Recipe:
    """The recipe of a run as it was then, with its overrides."""
    if run.recipe_text is None:
        what = "was recorded by an earlier version of Luthier, which did not keep the recipe"
        known = ", ".join(f"{step.name} {step.artifact[:12]}" for step in run.steps)
        remedy = f"name what it made by its digest: {known}" if known else "run the recipe again"
        raise UnknownName(what, where=Where(field=run.id), remedy=remedy)
    base = Path(run.folder)
    file = base / (run.recipe_file or "recipe.yaml")
    shown = os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)
    return Recipe.of(override(parse_yaml(run.recipe_text, shown), tuple(run.overrides or ())), base)


def plan_of_run(run: Run) -> Plan:
    """The steps that a run made or found, with the artifacts that it recorded, whatever became of recipe and data."""
    recipe = recipe_of_run(run)
    store = recipe_store(recipe.base)
    steps, made = recipe.all_steps(), {step.name: step.artifact for step in run.steps}
    planned = []
    for name in recipe.order():
        if (digest := made.get(name)) is None:
            continue
        manifest = store.open(digest).manifest if store.has(digest) else None
        planned.append(
            Planned(
                name=name,
                step=steps[name],
                digest=digest,
                inputs=manifest.inputs if manifest else {},
                contents=manifest.reads if manifest else {},
                cached=manifest is not None,
                forecast=None,
            )
        )
    return Plan(recipe=recipe, store=store, shared=store.shared or store, steps=tuple(planned), run=run.id)
