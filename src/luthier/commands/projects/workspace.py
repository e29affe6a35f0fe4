"""The projects of a workspace: each recipe in a folder or just below it, its last run, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.commands.projects.queue import QueuedRun, RunQueue
from luthier.core.artifact import Artifact
from luthier.core.db import Run
from luthier.core.errors import LuthierError, UnknownName, did_you_mean
from luthier.core.files import write_atomically
from luthier.core.step import StepCostEstimate
from luthier.recipe.locate import CommandTarget, find_plan
from luthier.recipe.planner import RecipePlan, build_recipe_plan
from luthier.recipe.report import render_report, summarize_artifacts
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import read_yaml

if TYPE_CHECKING:
    from luthier.eval.report.html import PageLanguage


@dataclass(frozen=True, kw_only=True)
class ProjectStep:
    """One step of a project's recipe, and what is known of it."""

    name: str
    kind: str
    makes: str
    digest: str
    made: bool
    forecast: StepCostEstimate | None = None
    timing: Mapping[str, Any] | None = None
    """What it took and was expected to take, when it is made."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A recipe, and how it stands."""

    id: str
    file: Path
    shown: Path
    """The file, from the workspace's folder."""
    name: str
    steps: tuple[tuple[str, str], ...]
    """Name and kind of each step, as they are written."""
    error: LuthierError | None = None
    """Why the recipe cannot be read."""
    queued: QueuedRun | None = None
    """Its latest run that was asked for in the studio."""
    run: Run | None = None
    """Its latest run, from wherever it was started."""
    results: tuple[str, ...] = ()
    """What the latest run that came to its end says."""

    @property
    def folder(self) -> Path:
        """The recipe's folder."""
        return self.file.parent

    @property
    def state(self) -> str:
        """How it stands, in a word."""
        if self.error is not None:
            return "broken"
        if self.queued is not None and not self.queued.ended:
            return self.queued.state
        if self.queued is not None and (self.run is None or self.queued.requested_at > self.run.started_at):
            return self.queued.state
        return self.run.state if self.run is not None else "new"

    @property
    def changed_at(self) -> datetime | None:
        """When something was done with it last."""
        moments = [self.queued.requested_at if self.queued else None, self.run.started_at if self.run else None]
        return max((moment for moment in moments if moment is not None), default=None)


def list_projects(workspace: Workspace, queue: RunQueue) -> list[Project]:
    """The projects here, those with something new first."""
    queued = queue.all()
    projects = [_project(workspace, name, file, queued) for name, file in _files(workspace).items()]
    return sorted(projects, key=lambda project: (project.changed_at is None, -_seconds(project.changed_at), project.id))


def find_project(workspace: Workspace, name: str, queue: RunQueue) -> Project:
    """A project by its id. It is looked up among those that are here: an id is never a path."""
    return _project(workspace, name, find_project_file(workspace, name), queue.all())


def find_project_file(workspace: Workspace, name: str) -> Path:
    """The recipe of a project; `UnknownName` where there is none."""
    files = _files(workspace)
    if name not in files:
        raise UnknownName(f"there is no project {name!r}", hint=did_you_mean(name, files))
    return files[name]


def _files(workspace: Workspace) -> dict[str, Path]:
    return {project_id(workspace, file): file for file in workspace.list_recipes()}


def list_project_ids(workspace: Workspace) -> list[str]:
    """The ids of the projects here."""
    return sorted(_files(workspace))


def project_id(workspace: Workspace, file: Path) -> str:
    """What a recipe's file is called in addresses: its folder's name, or its own beside others."""
    inside = workspace.shorten(file)
    own = inside.parent if inside.name == "recipe.yaml" and inside.parent != Path() else inside
    return own.as_posix().replace("/", "~")


def _project(workspace: Workspace, name: str, file: Path, queued: Sequence[QueuedRun]) -> Project:
    shown = workspace.shorten(file)
    runs = [run for run in queued if run.recipe_file == str(shown)]
    latest = max(runs, key=lambda run: run.requested_at, default=None)
    try:
        data = _read_recipe(file, _stamp(file))
    except LuthierError as error:
        return Project(id=name, file=file, shown=shown, name=name, steps=(), error=error, queued=latest)
    title, steps = str(data.get("name") or name), data.get("steps")
    kinds = tuple((str(key), _kind(step)) for key, step in steps.items()) if isinstance(steps, dict) else ()
    own = workspace.with_folder(file.parent)
    recorded = list_recipe_runs(own, title)
    run = recorded[0] if recorded else None
    done = next((entry for entry in recorded if entry.state == "done"), None)
    results = _results(own, done) if done else ()
    return Project(
        id=name,
        file=file,
        shown=shown,
        name=title,
        steps=kinds,
        queued=latest,
        run=run,
        results=results,
    )


def _stamp(file: Path) -> tuple[int, int]:
    """When a file was changed last, and how large it is; zeros where it is gone."""
    try:
        about = file.stat()
    except FileNotFoundError:
        return 0, 0
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=256)
def _read_recipe(file: Path, stamp: tuple[int, int]) -> Mapping[str, Any]:  # a part of the key
    """What a recipe's file holds, as long as it is the same by time and size."""
    data: Mapping[str, Any] = read_yaml(file).data
    return data


def _kind(step: Any) -> str:
    return str(step.get("kind", "?")) if isinstance(step, dict) else str(step)


def list_recipe_runs(workspace: Workspace, recipe: str) -> list[Run]:
    """The latest runs of a recipe in a folder, wherever they were started; none where its ledger is away."""
    try:
        if not workspace.has_ledger():
            return []
        with workspace.open_ledger() as ledger:
            return ledger.runs_of(recipe, str(workspace.folder.absolute()), limit=20)
    except LuthierError:
        return []


def _results(workspace: Workspace, run: Run) -> tuple[str, ...]:
    """What a run found; what is no longer in the store says nothing."""
    store = workspace.open_store()
    made: dict[str, Artifact] = {step.name: store.open(step.artifact) for step in run.steps if store.has(step.artifact)}
    try:
        return tuple(summarize_artifacts(made))
    except LuthierError:
        return ()


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0


def load_plan(workspace: Workspace, file: Path, overrides: Sequence[str] = (), *, costs: bool = True) -> RecipePlan:
    """The plan of a recipe, with what it costs; without, where only what is made is asked."""
    return build_recipe_plan(
        Recipe.load(file, overrides, workspace.with_folder(file.parent)), costs_of=None if costs else ()
    )


class MadePlan(NamedTuple):
    """A plan of which something is made, and what commands call it: the recipe's file, or an earlier run."""

    plan: RecipePlan
    word: str

    @property
    def is_current(self) -> bool:
        """Whether it is what the recipe means now."""
        return self.plan.run is None


def load_made_plan(workspace: Workspace, file: Path, makes: str) -> MadePlan:
    """The recipe's plan; where no such artifact of it is made, that of the latest run which has one: the recipe, its
    data or Luthier changed since."""
    current = MadePlan(load_plan(workspace, file, costs=False), str(workspace.shorten(file)))
    if _has_made(current.plan, makes):
        return current
    for run in list_recipe_runs(workspace.with_folder(file.parent), current.plan.recipe.name):
        try:
            earlier = MadePlan(find_plan(CommandTarget(workspace, run.id)), run.id)
        except LuthierError:
            continue  # the recipe as it was cannot be read by this version
        if _has_made(earlier.plan, makes):
            return earlier
    return current


def _has_made(plan: RecipePlan, makes: str) -> bool:
    return any(planned.cached and planned.step.makes == makes and not planned.step.shared for planned in plan)


def list_plan_steps(plan: RecipePlan) -> list[ProjectStep]:
    """The steps of a plan: what is made and took how long, and what is to be made and will take how long."""
    return [
        ProjectStep(
            name=planned.name, kind=planned.step.kind, makes=planned.step.makes, digest=planned.digest,
            made=planned.cached,
            forecast=planned.forecast, timing=plan.store.open(planned.digest).timing() if planned.cached else None,
        )
        for planned in plan
    ]  # fmt: skip


def load_queued_plan(workspace: Workspace, queued: QueuedRun) -> RecipePlan:
    """The steps of a run that was asked for: of one that is over, what it made; else what it will take, too."""
    if queued.ended and queued.run is not None:
        return find_plan(CommandTarget(workspace, queued.run))
    return load_plan(workspace, workspace.resolve(queued.recipe_file), queued.overrides)


_TRAINING_LOG = "log.jsonl"
_SAMPLES = 60


def read_training_samples(plan: RecipePlan) -> dict[str, list[dict[str, Any]]]:
    """What models answered to the same prompts while they were trained, by step: of objectives that write answers."""
    found: dict[str, list[dict[str, Any]]] = {}
    for planned in plan:
        if planned.step.kind != "tune" or not planned.cached:
            continue
        artifact = plan.artifact(planned.name)
        if not any(entry.path == _TRAINING_LOG for entry in artifact.manifest.files):
            continue
        with artifact.path(_TRAINING_LOG).open(encoding="utf-8") as file:
            lines = (json.loads(line) for line in file if '"samples"' in line)
            samples = [{"step": line["step"], **item} for line in lines for item in line.get("samples", ())]
        if samples:
            found[planned.name] = sorted(samples, key=lambda sample: (str(sample["id"]), sample["step"]))[:_SAMPLES]
    return found


def read_report(workspace: Workspace, word: str, language: PageLanguage | None = None) -> str:
    """The report of what a recipe, or a run by its id, made: as a page."""
    return render_report(find_plan(CommandTarget(workspace, word)), "html", language=language)


def save_recipe(workspace: Workspace, file: Path, text: str) -> Recipe:
    """Write a recipe's text once it is one; `RecipeError` else, with file and line, and nothing is written."""
    recipe = check_recipe(workspace, file, text)
    write_atomically(file, text.encode())
    return recipe


def check_recipe(workspace: Workspace, file: Path, text: str) -> Recipe:
    """The recipe that a text is; `RecipeError` with file and line where it is none."""
    from luthier.recipe.yaml import parse_yaml

    return Recipe.of(parse_yaml(text, str(file)), workspace.with_folder(file.parent))


def workspace_store(workspace: Workspace) -> Path:
    """Where the workspace keeps its queue: `.luthier` in its folder, or `LUTHIER_STORE`."""
    return workspace.open_store().root
