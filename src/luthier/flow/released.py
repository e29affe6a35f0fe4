"""What a name means now: the recipe here that made the model which answers to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from luthier.core.errors import LuthierError, RecipeError, Where
from luthier.flow.here import ledger_of
from luthier.flow.nearby import recipes_near
from luthier.flow.plan import Plan, plan, recipe_store
from luthier.flow.recipe import Recipe
from luthier.traffic import releases
from luthier.traffic.releases import Release


@dataclass(frozen=True, kw_only=True)
class Released:
    """The model that answers to a name, through the recipe that made it."""

    alias: str
    plan: Plan
    step: str
    """The step that made the model."""
    digest: str
    since: datetime | None
    """Since when it answers; None for the first model of that name."""
    ever: frozenset[str]
    """Digests of all models that the name has meant."""

    @property
    def recipe(self) -> Recipe:
        """What made it."""
        return self.plan.recipe


def answering(alias: str, base: Path) -> str:
    """Digest of the model that a name means in a folder; `UnknownName` where there is none."""
    return _changes(alias, base)[0].stable.digest


def _changes(alias: str, base: Path) -> list[Release]:
    with ledger_of(base) as ledger:
        return releases.history(ledger, alias)


def since_of(changes: list[Release]) -> datetime | None:
    """When the model that answers now began to; None when it is the first of its name."""
    other = next((at for at, change in enumerate(changes) if change.stable.model != changes[0].stable.model), None)
    return None if other is None else changes[other - 1].at


def find_released(alias: str, recipe: Path) -> Released:
    """The recipe, among that which is named and those beside it, that made what a name means now."""
    named = Recipe.load(recipe)
    changes = _changes(alias, named.base)
    digest, since = changes[0].stable.digest, since_of(changes)
    ever = frozenset(model.digest for change in changes for model in change.models if model.digest)
    for what in _plans(named):
        for step in what:
            if step.step.makes == "model" and step.digest == digest:
                return Released(alias=alias, plan=what, step=step.name, digest=digest, since=since, ever=ever)
    raise RecipeError(
        f"{alias} means {digest[:12] or 'a base model'}, which no recipe here makes",
        where=Where(file=str(recipe)),
        remedy=f"`luthier run` a recipe in this folder, and release what it makes: luthier release {alias} RECIPE:STEP",
    )


def _plans(named: Recipe) -> Iterator[Plan]:
    """What the recipe that is named would make, and then those beside it that can be read."""
    yield plan(named, costs_of=())
    for path in recipes_near(recipe_store(named.base)):
        if path.resolve() != Path(named.file).resolve():
            try:
                yield plan(Recipe.load(path), costs_of=())
            except LuthierError:
                continue  # another recipe's fault is no matter of this name


def only_alias(recipe: Path) -> str:
    """The one name by which a model of a recipe answers, or answered before others took its place."""
    named = Recipe.load(recipe)
    made = {step.digest for step in plan(named, costs_of=()) if step.step.makes == "model"}
    with ledger_of(named.base) as ledger:
        known = [(alias, releases.history(ledger, alias)) for alias in releases.current(ledger)]
    found = [alias for alias, changes in known if any(change.stable.digest in made for change in changes)]
    if len(found) == 1:
        return found[0]
    again = f"luthier release support@prod {recipe}:STEP"
    if found:
        what = f"{len(found)} names mean a model of this recipe: {', '.join(found)}"
        remedy = f"`luthier watch` takes one of them: --release {found[0]}"
    elif known:
        alias, (now, *_) = known[0]
        meant = f"{alias} is {now.stable.word} ({now.stable.digest[:12]})"
        what = f"no name means what this recipe makes as it stands: {meant}"
        remedy = f"the recipe, its data or Luthier changed since: `luthier run {recipe}`, and `{again}`"
    else:
        what, remedy = "no model of this recipe was released under a name, so that no traffic is its own", again
    raise RecipeError(what, where=Where(file=str(recipe)), remedy=remedy)
