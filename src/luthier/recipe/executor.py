"""Executors of a run's steps: in this process, in another one, or on another machine over the same store.

The runner decides what is made and when: it plans, finds what is made already, holds the lock of a step (unless a job
elsewhere does), and records the run. An executor makes one artifact. `StepTask` says all that another process needs for
it, as plain JSON. `Placement` says which step goes where.
"""

from __future__ import annotations

import json
import re
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, InputError, SourceLocation, UnknownName, did_you_mean
from luthier.core.events import RunEventEmitter
from luthier.core.remote_store import is_remote, open_store
from luthier.core.step import StepCostEstimate, StepExecutor
from luthier.recipe.machine_task import MachineTask, is_machine_task
from luthier.recipe.planner import PlannedStep, RecipePlan, build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.task_files import list_own_steps, place_files
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import apply_overrides, parse_yaml


class StepFault(RuntimeError):
    """A fault of Luthier's own in another process that made a step; its text ends with the traceback from there."""


class Executor(StepExecutor):
    """Makes the steps of a run."""

    is_elsewhere: ClassVar[bool] = False
    """Whether a remote job makes the step and holds its lock; independent steps then run concurrently."""

    @abstractmethod
    def make_artifact(self, plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> Artifact:
        """Make the artifact of a step whose inputs are made; returns it. The caller holds the step's lock, unless the
        executor `is_elsewhere`.

        Events go to `events` as they happen, and what a listener answers to progress goes back to the step. Ctrl-C
        (`KeyboardInterrupt`) ends the step; its scratch folder stays, so that the same step goes on from there.
        """

    def find_machine(self) -> tuple[str, int] | None:
        """The machine that it computes on, by its name in the catalogue, and how many devices; None when not known."""
        return None

    def check(self, plan: RecipePlan, planned: PlannedStep) -> None:
        """`InputError` where it could not make a step of a plan; asked before anything is made."""

    def find_files(self, plan: RecipePlan, planned: PlannedStep) -> dict[str, Path]:
        """The files that are sent with a step's task, by their paths from the recipe's folder; `InputError` for one
        that a job could not read."""
        return {}

    def cancel(self, plan: RecipePlan, planned: PlannedStep) -> None:
        """End the job that makes a step elsewhere, since the run is stopped; `make_artifact` then returns soon."""


@dataclass(frozen=True)
class Placement:
    """The executor of each step: by its name, else that of all, else the recipe's."""

    default: Executor | None = None
    """Executor of all steps, whatever the recipe says."""
    by_step: Mapping[str, Executor] = field(default_factory=dict)

    def executor_of(self, planned: PlannedStep) -> Executor:
        """The executor of a step; a base model is fetched in this process unless its own step is placed."""
        from luthier.recipe.executors.local import LocalExecutor

        everywhere = None if planned.step.shared else self.default
        found = self.by_step.get(planned.name) or everywhere or planned.step.on or LocalExecutor()
        assert isinstance(found, Executor), "members of the role are executors"
        return found

    def place_driven_steps(self, recipe: Recipe) -> Recipe:
        """The recipe in which the steps that others drive say by `on` where they are made: so do then their children,
        wherever the driving step is made itself."""
        driven = {other for name in recipe.steps if recipe.drives(name) for other in recipe.find_upstream(name)}
        placed = {name: executor for name, executor in self.by_step.items() if name in driven and name in recipe.steps}
        return recipe.with_overrides({f"steps.{name}.on": entry.settings() for name, entry in placed.items()})

    def check(self, recipe: Recipe) -> None:
        """`UnknownName` where a step is placed that the recipe does not have."""
        for name in self.by_step.keys() - recipe.all_steps().keys():
            hint = did_you_mean(name, recipe.all_steps())
            raise UnknownName(f"there is no step {name!r}", where=SourceLocation(field="--on"), hint=hint)

    def check_files(self, plan: RecipePlan) -> None:
        """`InputError` where a step that is to be made reads a file that its job could not."""
        for planned in plan:
            if not planned.cached:
                self.executor_of(planned).find_files(plan, planned)


class StepTask(BaseModel):
    """One step of one recipe in one workspace, as JSON for another process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    """The recipe's folder, absolute."""
    store: str | None
    database: str | None
    """The workspace's store and database, where they are named."""
    file: str
    """The recipe's file, for messages."""
    text: str
    """The recipe as it was written, without the overrides."""
    overrides: tuple[str, ...]
    step: str
    digest: str
    """The name of the artifact that is to be made."""
    code: str
    """The revision of the code that is to make it."""
    forecast: StepCostEstimate | None
    """The plan's cost estimate."""
    contents: dict[str, dict[str, str]] = {}
    """Digests of external inputs of the steps that others make, which are not read again."""
    files: dict[str, str] = {}
    """Digests of the files that come with the task, by their paths from the recipe's folder."""

    @classmethod
    def of(
        cls,
        plan: RecipePlan,
        planned: PlannedStep,
        files: Mapping[str, str] | None = None,
        sent: Iterable[PlannedStep] = (),
    ) -> Self:
        """The task of a planned step; `files` come with it, and artifacts of base models that were `sent` are in the
        store. The base model is named in full then: a short name may be that of a folder, which is not looked for where
        only some of the files are."""
        recipe, own = plan.recipe, {step.name for step in list_own_steps(plan, planned)} - {step.name for step in sent}
        model = recipe.model if files is not None else None
        named = (f"model={json.dumps(model.settings())}",) if model is not None else ()
        return cls(
            folder=recipe.recipe_dir.absolute(),
            store=recipe.workspace.store,
            database=recipe.workspace.database,
            file=recipe.file,
            text=recipe.written,
            overrides=(*recipe.overrides, *named),
            step=planned.name,
            digest=planned.digest,
            code=planned.step.code(),
            forecast=planned.forecast,
            contents={
                planned_step.name: dict(planned_step.contents) for planned_step in plan if planned_step.name not in own
            },
            files=dict(files or {}),
        )

    @property
    def workspace(self) -> Workspace:
        """The recipe's folder with its store and database."""
        return Workspace(self.folder, self.store, self.database)

    def open(self) -> tuple[RecipePlan, PlannedStep]:
        """The plan and the step; `DataError` where they have come to mean another artifact."""
        workspace = self.workspace
        workspace = workspace.with_folder(place_files(workspace.open_store(), self.folder, self.files))
        recipe = Recipe.of(apply_overrides(parse_yaml(self.text, self.file), self.overrides), workspace)
        plan = build_recipe_plan(recipe, costs_of=(), known=self.contents)
        planned = replace(plan[self.step], forecast=self.forecast)
        if planned.step.code() != self.code:
            message = f"the code of {planned.step.kind!r} here is not that of who asked for it, so nothing was made"
            hint = "install the same Luthier and the same plugins on both sides"
            raise DataError(message, where=SourceLocation(field=f"steps.{self.step}"), hint=hint)
        if planned.digest != self.digest:
            message = "what it reads changed since the run began, so nothing was made"
            raise DataError(message, where=SourceLocation(field=f"steps.{self.step}"), hint="run it again")
        return plan, planned


def read_task(location: str) -> StepTask | MachineTask:
    """The task in a file, in a store behind a URL, or on standard input (`-`); `InputError` for anything else."""
    where, hint = SourceLocation(file=location), "executors write tasks; `luthier run --on slurm` hands one to a job"
    try:
        if is_remote(location):
            store, _, name = location.rpartition("/tasks/")
            text = open_store(store).read_file(f"tasks/{name}").decode()
        else:
            text = sys.stdin.read() if location == "-" else Path(location).read_text(encoding="utf-8")
        if is_machine_task(_parse_json(text)):
            return MachineTask.model_validate_json(text)
        return StepTask.model_validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(f"cannot be read: {what}", where=where, hint=hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        what = f"is no task of a step: {'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}"
        raise InputError(what, where=where, hint=hint) from error


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def parse_placement(words: Iterable[str]) -> Placement:
    """Where steps go, from words as `local`, `tune=slurm` or `tune={kind: slurm, partition: gpu}`; a later word for the
    same step counts."""
    default: Executor | None = None
    by_step = dict[str, Executor]()
    for word in words:
        named = _PLACED.fullmatch(word)
        if named:
            by_step[named["step"]] = parse_executor(named["executor"])
        else:
            default = parse_executor(word)
    return Placement(default, by_step)


_PLACED = re.compile(r"(?P<step>[a-z0-9_-]+)=(?P<executor>.+)", re.DOTALL)


def parse_executor(text: str) -> Executor:
    """An executor from its kind, or from a mapping in YAML; `InputError` for anything else."""
    try:
        return Executor.parse(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError) as error:
        hint = "`luthier components executor` lists them"
        message = str(error).split("\n", 1)[0]
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            message = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise InputError(message, where=SourceLocation(field="--on"), hint=hint) from error
