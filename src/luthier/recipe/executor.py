"""Where the steps of a run are made: in this process, in another one, or on another machine over the same store.

The runner decides what is made and when: it plans, finds what is made already, holds the lock of a step, and records
the run. An executor makes one artifact. `StepTask` says all that another process needs for it, as plain JSON.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.core.errors import DataError, InputError, SourceLocation
from luthier.core.events import RunEventEmitter
from luthier.core.step import StepCostEstimate
from luthier.recipe.planner import PlannedStep, RecipePlan, build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import apply_overrides, parse_yaml


class Executor(Component):
    """Where the steps of a run are made."""

    role: ClassVar[str] = "executor"
    home: ClassVar[str] = "luthier.recipe.executors"

    @abstractmethod
    def make_artifact(self, plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> Artifact:
        """Make the artifact of a step whose inputs are made and whose lock the caller holds; returns it.

        Events go to `events` as they happen, and what a listener answers to progress goes back to the step. Ctrl-C
        (`KeyboardInterrupt`) ends the step; its scratch folder stays, so that the same step goes on from there.
        """


class StepTask(BaseModel):
    """One step of one recipe in one workspace, as JSON that another process opens."""

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
    forecast: StepCostEstimate | None
    """What the plan expects it to cost."""

    @classmethod
    def of(cls, plan: RecipePlan, planned: PlannedStep) -> Self:
        """The task of a planned step."""
        recipe = plan.recipe
        return cls(
            folder=recipe.recipe_dir.absolute(),
            store=recipe.workspace.store,
            database=recipe.workspace.database,
            file=recipe.file,
            text=recipe.written,
            overrides=recipe.overrides,
            step=planned.name,
            digest=planned.digest,
            forecast=planned.forecast,
        )

    def open(self) -> tuple[RecipePlan, PlannedStep]:
        """The plan and the step; `DataError` where they have come to mean another artifact."""
        workspace = Workspace(self.folder, self.store, self.database)
        recipe = Recipe.of(apply_overrides(parse_yaml(self.text, self.file), self.overrides), workspace)
        plan = build_recipe_plan(recipe, costs_of=())
        planned = replace(plan[self.step], forecast=self.forecast)
        if planned.digest != self.digest:
            message = "what it reads changed since the run began, so nothing was made"
            raise DataError(message, where=SourceLocation(field=f"steps.{self.step}"), hint="run it again")
        return plan, planned


def parse_executor(text: str) -> Executor:
    """An executor from its kind, or from a mapping in YAML; `InputError` for anything else."""
    try:
        return Executor.parse(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError, ValueError) as error:
        message = str(error).split("\n", 1)[0]
        hint = "`luthier components executor` lists them"
        raise InputError(message, where=SourceLocation(field="--on"), hint=hint) from error
