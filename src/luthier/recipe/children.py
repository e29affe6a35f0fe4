"""Further steps of a recipe, made by a step that drives others: planned, locked, cached and logged as its own are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.errors import Interrupted
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.step import ChildPlan, Step
from luthier.recipe.planner import PlannedStep, RecipePlan, build_recipe_plan

if TYPE_CHECKING:
    from luthier.recipe.executor import Executor
    from luthier.recipe.executors.process import ProcessPool


class StepChildRunner:
    """Plans and makes children of one step of a plan (`luthier.core.step.ChildRunner`).

    A child is made by the executor that its field `on` names, else here. Used as a context, the processes that make
    children end with it.
    """

    def __init__(self, plan: RecipePlan, driver: PlannedStep, events: RunEventEmitter) -> None:
        self._plan, self._driver, self._events = plan, driver, events
        self._sentences = set[str]()
        """Sentences of children that were passed on."""
        self._pools: dict[int, ProcessPool] = {}
        """Processes that make children, by the threads that they compute with."""

    @property
    def steps(self) -> Mapping[str, Step]:
        """The steps that the driving step reads, directly or not, by name."""
        return self._plan.recipe.find_upstream(self._driver.name)

    def plan(self, steps: Mapping[str, Step], name: str) -> ChildPlan:
        """Plan one of some further steps and what it reads; raises the `LuthierError` by which it is refused."""
        planned = self._build_plan(steps, name)
        costs = {
            planned_step.name: planned_step.forecast for planned_step in planned if planned_step.forecast is not None
        }
        child = planned[name]
        return ChildPlan(digest=child.digest, cached=child.cached, forecasts={} if child.cached else costs)

    def make(self, steps: Mapping[str, Step], name: str, *, threads: int | None = None) -> Artifact:
        """The artifact of one of some further steps, found or made with all that it reads: where their `on` says, else
        here, or in processes that compute with so many threads. The names of those made are kept with the driving
        step's work until that is finished."""
        from luthier.recipe.executor import Placement
        from luthier.recipe.runner import make_steps

        plan = self._build_plan(steps, name)
        needed = plan.recipe.needed([name])
        requested = [planned for planned in plan if planned.name in needed]
        for planned in requested:
            if planned.name in steps and not planned.step.shared:
                plan.store.record_child(self._driver.digest, planned.digest)
        try:
            own = {} if threads is None else self._place_in_processes(requested, threads)
            done = make_steps(plan, requested, RunEventEmitter(self._listener(steps)), Placement(by_step=own))
        except Interrupted as error:
            raise KeyboardInterrupt from error  # what stops the run is no failure of the child
        return done[name].artifact

    def _place_in_processes(self, requested: Sequence[PlannedStep], threads: int) -> Mapping[str, Executor]:
        """The executor of the steps that name none."""
        from luthier.recipe.executors.process import ProcessExecutor, ProcessPool

        executor = ProcessExecutor.of_pool(self._pools.setdefault(threads, ProcessPool(threads)))
        return {planned.name: executor for planned in requested if planned.step.on is None and not planned.step.shared}

    def __enter__(self) -> StepChildRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pool in self._pools.values():
            pool.__exit__(kind, error, at)

    def _build_plan(self, steps: Mapping[str, Step], name: str) -> RecipePlan:
        from luthier.recipe.runner import gather_inputs

        recipe = self._plan.recipe.with_children(self._driver.name, steps)
        needed = recipe.needed([name])
        gather_inputs(recipe, [entry for entry in needed if entry in steps], RunEventEmitter(self._listener(steps)))
        known = {planned.name: planned.contents for planned in self._plan if planned.name not in steps}
        return build_recipe_plan(recipe, self._plan.store, costs_of=needed, known=known)

    def _listener(self, steps: Mapping[str, Step]) -> _ChildEvents:
        return _ChildEvents(self._events, self._driver.name, frozenset(steps), self._sentences)


class _ChildEvents:
    """Passes events of children on under the driving step's name, as far as they tell something new: not that what it
    reads is made already, not what each child is expected to cost, and no sentence twice."""

    def __init__(self, events: RunEventEmitter, driver: str, children: frozenset[str], sentences: set[str]) -> None:
        self._events, self._driver, self._children, self._sentences = events, driver, children, sentences

    def __call__(self, event: RunEvent) -> bool:
        """Pass one event on; returns whether the work is to stop."""
        if event.kind == "cached" and event.step not in self._children:
            return False
        if event.kind in ("note", "warning"):
            if event.text in self._sentences or event.text.startswith("will take "):
                return False
            self._sentences.add(event.text)
        return self._events.emit(replace(event, step=f"{self._driver}.{event.step}"))
