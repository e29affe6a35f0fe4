"""What a run would do: each step's digest, whether it is cached, and what making it is expected to cost."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.component import check_installed, nested
from luthier.core.errors import LuthierError, UnknownName, Where, did_you_mean
from luthier.core.paces import remembered
from luthier.core.paths import cache_folder
from luthier.core.step import Forecast, Outline, Outlook, Step
from luthier.core.store import Store
from luthier.flow.recipe import MODEL_STEP, Recipe

STORE = ".luthier"
"""The folder of a store beside its recipes."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One step of a plan."""

    name: str
    step: Step
    digest: str
    inputs: Mapping[str, str]
    """Digests of what it reads, by field."""
    contents: Mapping[str, str]
    """Digests of what its parts read from outside."""
    cached: bool
    forecast: Forecast | None
    """None when cached (nothing will be spent), and when nobody asked."""

    def as_json(self) -> dict[str, Any]:
        """The step as `plan --json` prints it."""
        cost = self.forecast or Forecast(seconds=0, peak_bytes=0, tokens=0, how="cached")
        predicted = {name: getattr(cost, name) for name in ("seconds", "peak_bytes", "tokens", "how")}
        return {"kind": self.step.kind, "artifact": self.digest, "cached": self.cached, "predicted": predicted}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a recipe in the order in which they can be made."""

    recipe: Recipe
    store: Store
    shared: Store
    steps: tuple[Planned, ...]

    def __iter__(self) -> Iterator[Planned]:
        return iter(self.steps)

    def __getitem__(self, name: str) -> Planned:
        for planned in self.steps:
            if planned.name == name:
                return planned
        remedy = did_you_mean(name, (planned.name for planned in self.steps))
        where = Where(file=self.recipe.file, field="steps")
        raise UnknownName(f"there is no step {name!r}", where=where, remedy=remedy)

    def store_of(self, planned: Planned) -> Store:
        """Where a step's artifact is kept: the recipe's store, or the user's shared one."""
        return self.shared if planned.step.shared else self.store

    def artifact(self, name: str) -> Artifact:
        """The finished artifact of a step; `UnknownName` when it is not made yet."""
        planned = self[name]
        if not self.store.has(planned.digest):
            raise self._not_made(planned)
        return self.store.open(planned.digest)

    def _not_made(self, planned: Planned) -> UnknownName:
        """That a step is not made, and what was made of its kind before the recipe, its data or Luthier changed."""
        what, remedy = "this step is not made yet", f"`luthier run {self.recipe.file}` makes it"
        last = next((one for one in self.store.usage() if one.kind == planned.step.kind), None)
        if last is not None:
            what = "this step is not made as the recipe stands; overrides and the version of Luthier count, too"
            remedy += f"; the last of its kind here is named {last.digest[:12]}"
        return UnknownName(what, where=Where(file=self.recipe.file, field=f"steps.{planned.name}"), remedy=remedy)

    def foresee(self, planned: Planned) -> Forecast:
        """What making a step is expected to cost, told anew: its inputs may stand by now."""
        known = {each.name: each for each in self.steps}
        history = newest_timings(self.store).get(planned.step.kind, {})
        return planned.step.foresee(_outlook(self.recipe, self.store, planned.step, known, history))

    @property
    def notes(self) -> list[str]:
        """What the recipe says and no step uses."""
        if self.recipe.model is None or any(planned.name == MODEL_STEP for planned in self.steps):
            return []
        return ["no step reads the recipe's `model`; `against: model` in an evaluation compares with it"]

    def as_json(self) -> dict[str, Any]:
        """The plan as `plan --json` prints it."""
        return {"recipe": self.recipe.name, "steps": {planned.name: planned.as_json() for planned in self.steps}}


def store_place(base: Path) -> str:
    """Where a recipe's store is: `LUTHIER_STORE` (path or URL), the store that the recipe lies in (as a job's does), or
    `.luthier` beside it."""
    place = base.absolute()
    around = next((folder for folder in (place, *place.parents) if folder.name == STORE), place / STORE)
    return os.environ.get("LUTHIER_STORE") or str(around)


def shared_store() -> Store:
    """The store of this user in which converted base models are kept."""
    return Store(cache_folder() / "store")


def recipe_store(base: Path) -> Store:
    """The store of the recipes in a folder, with the user's shared store behind it."""
    from luthier.core.remote import open_store

    return open_store(store_place(base), shared=shared_store())


def plan(recipe: Recipe, store: Store | None = None, costs_of: Collection[str] | None = None) -> Plan:
    """Digest every step, look each up, and ask those that must be made what they will cost: all, or `costs_of` some.

    A step that cannot be made refuses when it is asked; whoever looks at what others made does not ask it.
    """
    planner = _Planner(recipe, store or recipe_store(recipe.base), costs_of)
    for name in recipe.order():
        try:
            planner.take(name)
        except LuthierError as error:
            raise recipe.placed(error, name) from error
    store = planner.store
    return Plan(recipe=recipe, store=store, shared=store.shared or store, steps=tuple(planner.planned.values()))


class _Planner:
    """Plans one step after another; each sees what is known of those that it reads."""

    def __init__(self, recipe: Recipe, store: Store, costs_of: Collection[str] | None) -> None:
        self.recipe = recipe
        self.store = store
        self.planned: dict[str, Planned] = {}
        self._steps = recipe.all_steps()
        self._costs_of = self._steps if costs_of is None else costs_of
        self._outlines: dict[str, Outline] = {}
        self._left_bytes = 0
        """What the steps that will be made before leave in the process."""

    def take(self, name: str) -> None:
        """Plan a step whose inputs are planned."""
        step = self._steps[name]
        references = self.recipe.references(step)
        inputs = {field: self.planned[other].digest for field, other in references.items()}
        contents = step.contents(self.recipe.base)
        digest = step.recipe_digest(inputs, contents, 0 if step.shared else self.recipe.seed)
        cached = self.store.has(digest)
        forecast, is_asked = None, name in self._costs_of
        if is_asked and not cached:
            check_installed(step, self.recipe.base)
        if is_asked and (
            not cached or step.makes == "model"
        ):  # a model's files do not tell all, such as how to merge it
            history = self._history.get(step.kind, {})
            outlook = _outlook(self.recipe, self.store, step, self.planned, history, self._outlines)
            self._outlines[name] = step.outline(outlook)
        if is_asked and not cached:
            forecast = step.foresee(replace(outlook, outline=self._outlines[name])).beside(self._left_bytes)
            if size := sum(part.download_bytes() for part in nested(step)):
                forecast = replace(forecast, how=f"{forecast.how}; the run fetches {size / 1e6:.0f} MB first")
            self._left_bytes = max(self._left_bytes, forecast.left_bytes)
        self.planned[name] = Planned(
            name=name, step=step, digest=digest, inputs=inputs, contents=contents, cached=cached, forecast=forecast
        )

    @cached_property
    def _history(self) -> dict[str, dict[str, Any]]:
        return newest_timings(self.store)


def _outlook(
    recipe: Recipe,
    store: Store,
    step: Step,
    planned: Mapping[str, Planned],
    history: Mapping[str, Any],
    outlines: Mapping[str, Outline] | None = None,
) -> Outlook:
    """What is known now of a step whose inputs are planned."""
    references, steps = recipe.references(step), recipe.all_steps()

    def lineage(name: str) -> tuple[str, ...]:
        """A step's digest and those of the models under it."""
        below = recipe.references(steps[name]).get("model")
        return (planned[name].digest, *(lineage(below) if below else ()))

    digests = {field: planned[name].digest for field, name in references.items()}
    return Outlook(
        inputs={field: store.open(digest) for field, digest in digests.items() if store.has(digest)},
        upstream={field: steps[name] for field, name in references.items()},
        base=recipe.base,
        outlines={field: outlines[name] for field, name in references.items() if outlines and name in outlines},
        stands_on={field: lineage(name) for field, name in references.items()},
        history=history,
        paces=remembered(step.kind) if step.tells_of_machine else (),
    )


def newest_timings(store: Store) -> dict[str, dict[str, Any]]:
    """The timing of the newest artifact of each kind of step in a store."""
    newest: dict[str, dict[str, Any]] = {}
    for digest in store.digests():
        artifact = store.open(digest)
        timing = artifact.timing()
        before = newest.get(artifact.manifest.kind, {})
        if timing.get("finished_at", 0) > before.get("finished_at", -1):
            newest[artifact.manifest.kind] = {**timing, "settings": artifact.manifest.settings}
    return newest
