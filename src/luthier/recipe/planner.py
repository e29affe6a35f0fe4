"""Plan a recipe: the digest of each step, whether it is cached, and the time and memory that it needs.

Peak memory is that of this process since a reset (Linux) or since its start.
"""

from __future__ import annotations

import resource
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.component import check_installed, iter_components
from luthier.core.db import Run
from luthier.core.errors import LuthierError, SourceLocation, UnknownName, did_you_mean
from luthier.core.hashing import digest_of
from luthier.core.messages import gettext_noop
from luthier.core.step import ArtifactSpec, PlanContext, Step, StepCostEstimate
from luthier.core.store import Store
from luthier.core.system.process import trim_malloc_heap
from luthier.core.timings import read_machine_timings
from luthier.recipe.budget import warn_of_budget
from luthier.recipe.schema import MODEL_STEP, Recipe

if TYPE_CHECKING:
    from luthier.models.machine_cost import PlacementEstimate

MOST_RUNS = 3
"""Runs that an error names."""


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of a plan."""

    name: str
    step: Step
    digest: str
    inputs: Mapping[str, str]
    """Digests of what it reads, by field."""
    contents: Mapping[str, str]
    """Digests of what its parts read from outside."""
    cached: bool
    forecast: StepCostEstimate | None
    """None when cached (it costs nothing), and when not requested."""

    def as_json(self) -> dict[str, Any]:
        """The step as `plan --json` prints it."""
        cost = self.forecast or StepCostEstimate(seconds=0, peak_bytes=0, tokens=0, how="cached")
        predicted = {name: getattr(cost, name) for name in ("seconds", "peak_bytes", "tokens", "how")}
        if cost.statement:
            predicted["statement"] = cost.statement
        return {"kind": self.step.kind, "artifact": self.digest, "cached": self.cached, "predicted": predicted}


@dataclass(frozen=True, kw_only=True)
class RecipePlan:
    """The steps of a recipe in the order in which they can be made."""

    recipe: Recipe
    store: Store
    shared: Store
    steps: tuple[PlannedStep, ...]
    run: str | None = None
    """The id of the run whose artifacts these are; None for what the recipe means now."""

    def __iter__(self) -> Iterator[PlannedStep]:
        return iter(self.steps)

    def __getitem__(self, name: str) -> PlannedStep:
        for planned in self.steps:
            if planned.name == name:
                return planned
        hint = did_you_mean(name, (planned.name for planned in self.steps))
        where = SourceLocation(file=self.recipe.file, field="steps")
        if self.run is not None and name in self.recipe.all_steps():
            raise UnknownName(f"run {self.run} did not make the step {name!r}", where=where, hint=hint)
        raise UnknownName(f"there is no step {name!r}", where=where, hint=hint)

    def store_of(self, planned: PlannedStep) -> Store:
        """Return the store of a step's artifact: the recipe's, or the user's shared one."""
        return self.shared if planned.step.shared else self.store

    @property
    def statements(self) -> list[str]:
        """What steps to make tell others of the rows, and what protects them."""
        return [
            f"{step.name}: {step.forecast.statement}"
            for step in self.steps
            if step.forecast and step.forecast.statement
        ]

    @property
    def unmade(self) -> list[str]:
        """The names of the steps that are not made."""
        return [planned.name for planned in self.steps if not planned.cached]

    def artifact(self, name: str, command: str = "show {}") -> Artifact:
        """The finished artifact of a step; `UnknownName` when it is not made, with the runs that made it with other
        settings. `command` is the command that asks, with `{}` for the step, for the words to type."""
        planned = self[name]
        if not self.store.has(planned.digest):
            raise self.not_made(name, command)
        return self.store.open(planned.digest)

    def not_made(self, name: str, command: str, *, whole: bool = False) -> UnknownName:
        """The error that a step is not made. It names what earlier runs made of it: with other overrides, or before the
        recipe, its data or Luthier changed. With `whole`, `{}` in the command stands for the recipe."""
        again = f"`{self.command_to_run}{'' if whole else f' --only {name}'}` makes it"
        where = SourceLocation(file=self.recipe.file, field=f"steps.{name}")
        if self.run is not None:
            return UnknownName(f"what run {self.run} made is no longer in the store", where=where, hint=again)
        runs = self.runs_that_made(name)
        if not runs:
            return UnknownName(f"the step {name!r} is not made yet", where=where, hint=again)
        other_runs = ", ".join(f"{run.id} ({_settings_of(run)})" for run, _ in runs[:MOST_RUNS])
        if any(tuple(run.overrides or ()) == tuple(self.recipe.overrides) for run, _ in runs):
            what = f"the step {name!r} was made before the recipe, its data or Luthier changed; runs: {other_runs}"
        else:
            what = f"the step {name!r} is not made with these settings; runs that made it with others: {other_runs}"
        words = self._words_for(name, *runs[0], whole=whole)
        typed = f"luthier {command}".replace("{}", words)
        return UnknownName(what, where=where, hint=f"`{typed}` takes the latest; {again}")

    @property
    def command_to_run(self) -> str:
        """The command that makes what is not made."""
        return shlex.join(["luthier", "run", self.recipe.file, *self.recipe.overrides])

    def runs_that_made(self, step: str) -> list[tuple[Run, str]]:
        """The recorded runs of the recipe that have a step's artifact, each artifact once, the latest first, with its
        digest."""
        if not self.recipe.workspace.has_ledger():
            return []
        with self.recipe.workspace.open_ledger() as ledger:
            runs = ledger.runs_of(self.recipe.name, str(self.recipe.recipe_dir.absolute()))
        found: dict[str, Run] = {}
        for run in runs:
            for run_step in run.steps:
                if run_step.name == step and self.store.has(run_step.artifact):
                    found.setdefault(run_step.artifact, run)
        return [(run, digest) for digest, run in found.items()]

    def _words_for(self, step: str, run: Run, digest: str, *, whole: bool) -> str:
        """What names a step of an earlier run: the recipe with that run's overrides where it still means the same, else
        the run."""
        overrides = run.overrides or []
        try:
            recipe = Recipe.load(self.recipe.file, overrides, self.recipe.workspace)
            again = build_recipe_plan(recipe, self.store, costs_of=())
            same = again[step].digest == digest
        except LuthierError:
            same = False  # the recipe changed so much that the run's overrides do not fit it
        named = "" if whole else f":{step}"
        return shlex.join([f"{self.recipe.file}{named}", *overrides] if same else [f"{run.id}{named}"])

    def estimate_cost(self, planned: PlannedStep) -> StepCostEstimate:
        """Estimate the cost of a step again: its inputs may exist by now."""
        known = {each.name: each for each in self.steps}
        history = self.store.read_newest_timings().get(planned.step.kind, {})
        return planned.step.estimate_cost(_outlook(self.recipe, self.store, planned.step, known, history))

    def estimate_placement(self, planned: PlannedStep, machine: str, count: int) -> PlacementEstimate | None:
        """What a step is expected to take on some devices of a machine of the catalogue (`models.machine_cost`); None
        for a step that trains no network, and where model or data are not known yet."""
        from luthier.models.machine_cost import estimate_on

        known = {each.name: each for each in self.steps}
        outlines = dict[str, ArtifactSpec]()
        for each in self.steps:
            context = _outlook(self.recipe, self.store, each.step, known, {}, outlines)
            if each.name == planned.name:
                workload = each.step.describe_training(context)
                return None if workload is None else estimate_on(workload, machine, count)
            outlines[each.name] = each.step.outline(context)
        raise UnknownName(f"there is no step {planned.name!r}", hint=did_you_mean(planned.name, known))

    @property
    def notes(self) -> list[str]:
        """What the recipe says and no step uses, and where the forecast passes its budget."""
        warnings = warn_of_budget(self)
        if self.recipe.model is None or any(planned.name == MODEL_STEP for planned in self.steps):
            return warnings
        return [
            *warnings,
            gettext_noop("no step reads the recipe's `model`; `compare_with: model` in an evaluation compares with it"),
        ]

    def as_json(self) -> dict[str, Any]:
        """The plan as `plan --json` prints it."""
        return {"recipe": self.recipe.name, "steps": {planned.name: planned.as_json() for planned in self.steps}}


def _settings_of(run: Run) -> str:
    """Describe when a run was made, and its overrides."""
    if run.overrides is None:
        return f"{run.started_at:%Y-%m-%d %H:%M} UTC"
    return f"{run.started_at:%Y-%m-%d %H:%M} UTC, {shlex.join(run.overrides) or 'without overrides'}"


def build_recipe_plan(
    recipe: Recipe,
    store: Store | None = None,
    costs_of: Collection[str] | None = None,
    known: Mapping[str, Mapping[str, str]] | None = None,
) -> RecipePlan:
    """Digest every step, look each up, and ask those that must be made what they will cost: all, or `costs_of` some.

    A step that cannot be made refuses when it is asked; whoever looks at what others made does not ask it. `known` has
    digests of what steps read from outside, by step: they are not read again.
    """
    planner = _Planner(recipe, store or recipe.workspace.open_store(), costs_of, known or {})
    order = recipe.order()
    for work in (planner.name, planner.take):
        for name in order:
            try:
                work(name)
            except LuthierError as error:
                raise recipe.placed(error, name) from error
    store = planner.store
    return RecipePlan(recipe=recipe, store=store, shared=store.shared or store, steps=tuple(planner.planned.values()))


class _Planner:
    """Plans one step after another; each sees what is known of those that it reads."""

    def __init__(
        self, recipe: Recipe, store: Store, costs_of: Collection[str] | None, known: Mapping[str, Mapping[str, str]]
    ) -> None:
        self.recipe = recipe
        self.store = store
        self._known = known
        self.planned: dict[str, PlannedStep] = {}
        self._named: dict[str, PlannedStep] = {}
        """The steps with their digests, before anybody knows whether they are made."""
        self._steps = recipe.all_steps()
        self._costs_of = self._steps if costs_of is None else costs_of
        self._outlines: dict[str, ArtifactSpec] = {}
        self._left_bytes = 0
        """What the steps that will be made before leave in the process."""

    def name(self, name: str) -> None:
        """Find the digest of a step whose inputs have theirs."""
        step = self._steps[name]
        references = self.recipe.references(step)
        inputs = {field: self._named[other].digest for field, other in references.items()}
        known = self._known.get(name)
        contents = read_step_contents(self.recipe, name) if known is None else known
        digest = step.recipe_digest(inputs, contents, 0 if step.shared else self.recipe.seed)
        self._named[name] = PlannedStep(
            name=name, step=step, digest=digest, inputs=inputs, contents=contents, cached=False, forecast=None
        )

    @cached_property
    def _made(self) -> set[str]:
        """The digests of those that are made."""
        return self.store.find_made(planned_step.digest for planned_step in self._named.values())

    def take(self, name: str) -> None:
        """Plan a step whose inputs are planned; all have their digests."""
        named, step = self._named[name], self._steps[name]
        cached = named.digest in self._made
        forecast, is_asked = None, name in self._costs_of
        if is_asked and not cached:
            check_installed(step, self.recipe.recipe_dir)
        if is_asked and (
            not cached or step.makes == "model"
        ):  # a model's files do not tell all, such as how to merge it
            history = self._history.get(step.kind, {})
            plan_context = _outlook(self.recipe, self.store, step, self.planned, history, self._outlines)
            self._outlines[name] = step.outline(plan_context)
        if is_asked and not cached:
            forecast = step.estimate_cost(replace(plan_context, outline=self._outlines[name])).add_held_bytes(
                self._left_bytes
            )
            if size := sum(part.download_bytes() for part in iter_components(step)):
                forecast = replace(
                    forecast, how=f"{forecast.how}; {gettext_noop(f'the run fetches {size / 1e6:.0f} MB first')}"
                )
            self._left_bytes = max(self._left_bytes, forecast.left_bytes)
        self.planned[name] = replace(named, cached=cached, forecast=forecast)

    @cached_property
    def _history(self) -> dict[str, dict[str, Any]]:
        return self.store.read_newest_timings()


def read_step_contents(recipe: Recipe, name: str) -> dict[str, str]:
    """Digests of what a step's parts read from outside; for one that drives others, also of its children's code and of
    what these read."""
    step, recipe_dir = recipe.find_step(name), recipe.recipe_dir
    contents = step.contents(recipe_dir)
    children = {digest_of([child.code(), child.contents(recipe_dir)]) for child in recipe.list_children(name)}
    return {**contents, "children": digest_of(sorted(children))} if children else contents


def _outlook(
    recipe: Recipe,
    store: Store,
    step: Step,
    planned: Mapping[str, PlannedStep],
    history: Mapping[str, Any],
    outlines: Mapping[str, ArtifactSpec] | None = None,
) -> PlanContext:
    """Return the plan context of a step with planned inputs."""
    references, steps = recipe.references(step), recipe.all_steps()

    def lineage(name: str) -> tuple[str, ...]:
        """A step's digest and those of the models under it."""
        below = recipe.references(steps[name]).get("model")
        return (planned[name].digest, *(lineage(below) if below else ()))

    digests = {field: planned[name].digest for field, name in references.items()}
    return PlanContext(
        inputs={field: store.open(digest) for field, digest in digests.items() if store.has(digest)},
        upstream={field: steps[name] for field, name in references.items()},
        recipe_dir=recipe.recipe_dir,
        outlines={field: outlines[name] for field, name in references.items() if outlines and name in outlines},
        forecasts={
            field: forecast
            for field, name in references.items()
            if (forecast := planned[name].forecast or _measured_cost(store, planned[name])) is not None
        },
        stands_on={field: lineage(name) for field, name in references.items()},
        history=history,
        paces=read_machine_timings(step.kind) if step.tells_of_machine else (),
    )


def _measured_cost(store: Store, planned: PlannedStep) -> StepCostEstimate | None:
    """Return the measured cost of a finished step whose work others repeat; None for any other."""
    if planned.step.makes != "model" or not store.has(planned.digest):
        return None
    timing = store.open(planned.digest).timing()
    return StepCostEstimate(
        seconds=timing.get("seconds"), peak_bytes=timing.get("peak_bytes"), how=gettext_noop("as measured")
    )


_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak_memory() -> None:
    """Reset the peak memory counter where the system allows it, after releasing freed memory."""
    trim_malloc_heap()
    if _CLEAR.exists():
        try:
            _CLEAR.write_text("5")
        except OSError:
            return


def get_peak_memory() -> int:
    """Bytes of the highest resident memory since the last reset."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
