"""The models that answered the requests of some traffic, and the recipes here that made them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from luthier.core.errors import LuthierError, UnknownName
from luthier.flow.here import folder_here, folder_of_alias, ledger_of
from luthier.flow.nearby import recipes_here, recipes_near
from luthier.flow.plan import STORE, Plan, plan, recipe_store
from luthier.flow.recipe import Recipe
from luthier.flow.released import Released, since_of
from luthier.traffic import releases
from luthier.traffic.releases import Release


class ServedModel(NamedTuple):
    """A model that answered requests under one name."""

    name: str
    """What clients ask for: `support:tune`, `support@prod`."""
    digest: str
    """Of the model that a released name means now; of any other name, of the model that answered last."""
    requests: int
    last: datetime
    """When the last of them came."""
    made: Released | None
    """The recipe and step that make it; None where no recipe here does."""
    is_current: bool
    """Whether that step, as the recipe stands, is the very model that answered."""

    def line(self) -> str:
        """The model in a list."""
        return f"{self.name} ({self.digest[:12]}; {self.requests:,} requests, the last {self.last:%Y-%m-%d %H:%M} UTC)"


class _Asked(NamedTuple):
    name: str
    digest: str
    requests: int
    last: datetime


def served_models(traffic: Path) -> list[ServedModel]:
    """All of them that have a digest, the one with the most recent request first."""
    plans = list(_plans(traffic))
    return [_found(one, plans) for one in _asked(traffic)]


def _asked(traffic: Path) -> list[_Asked]:
    """Names that were asked for answers, each with the digest of the model that answered last; shadows and canaries
    aside."""
    import polars as pl

    from luthier.traffic.read import frame

    answered = (pl.col("arm") == "stable") & (pl.col("status") < 400) & (pl.col("asked") != "embedding")
    rows = (
        frame(traffic, "traces")
        .filter(answered & (pl.col("release") != ""))
        .sort("at")
        .group_by("model")
        .agg(pl.col("release").last(), pl.len().alias("requests"), pl.col("at").last())
        .sort("at", descending=True)
        .select("model", "release", "requests", "at")
    )
    return [_Asked(*row) for row in rows.collect().iter_rows()]


def _plans(traffic: Path) -> Iterator[Plan]:
    """What the recipes beside the traffic and here would make; those with the fewest steps first, since a next recipe
    holds the steps of the one before it."""
    base = traffic.parent.parent if traffic.parent.name == STORE else folder_here()
    found = dict.fromkeys(path.resolve() for path in (*recipes_near(recipe_store(base)), *recipes_here()))
    recipes, here = list[Recipe](), Path.cwd()
    for path in found:
        try:
            recipes.append(Recipe.load(path.relative_to(here) if path.is_relative_to(here) else path))
        except LuthierError:
            continue  # a recipe that cannot be read made nothing that is known
    for recipe in sorted(recipes, key=lambda one: len(one.steps)):
        try:
            yield plan(recipe, costs_of=())
        except LuthierError:
            continue


def _found(asked: _Asked, plans: list[Plan]) -> ServedModel:
    """The recipe that makes a model: by its digest, else by what it was called."""
    changes = _changes(asked.name)
    digest = changes[0].stable.digest if changes else asked.digest
    ever = frozenset(model.digest for change in changes for model in change.models if model.digest) or {digest}
    words = {asked.name, *([changes[0].stable.word] if changes else [])}
    tuned = [(what, step) for what in plans for step in what if step.step.makes == "model" and step.step.kind != "base"]
    exact = [one for one in tuned if one[1].digest == digest]
    called = [one for one in tuned if words & set(_words(one[0].recipe, one[1].name))]
    made = None
    for what, step in (exact or called)[:1]:
        since = since_of(changes) if changes else None
        made = Released(
            alias=asked.name, plan=what, step=step.name, digest=step.digest, since=since, ever=frozenset(ever)
        )
    return ServedModel(asked.name, digest, asked.requests, asked.last, made, bool(exact))


def _words(recipe: Recipe, step: str) -> tuple[str, str]:
    """What a step may be called where it is served or released."""
    return f"{recipe.name}:{step}", f"{recipe.file}:{step}"


def _changes(name: str) -> list[Release]:
    """The history of a released name; empty for any other."""
    if "@" not in name:
        return []
    with ledger_of(folder_of_alias(name)) as ledger:
        try:
            return releases.history(ledger, name)
        except UnknownName:
            return []
