"""Resolve what the command line names: a recipe or one of its steps, with overrides; a run; an artifact.

Every command uses the same forms:

    recipe.yaml:tune                          a step of a recipe
    recipe.yaml:tune steps.tune.epochs=3      the same with the overrides of `luthier run`
    :tune                                     a step of the recipe in the current folder
    3f2a9c11aa00:tune                         a step of a run (`luthier runs` lists the runs)
    8b1d5e                                    an artifact, by the beginning of its digest

A recorded run keeps the recipe and the overrides that it ran with.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from luthier.core.artifact import Artifact
from luthier.core.db import Run
from luthier.core.errors import InputError, RecipeError, SourceLocation, UnknownName
from luthier.recipe.planner import PlannedStep, RecipePlan, build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import apply_overrides, parse_yaml


def list_runs(workspace: Workspace, recipe: Path | None, *, limit: int) -> list[Run]:
    """The latest runs of one recipe; without one, of all recipes in the folder and in the folders that `new` makes in
    it; the latest first."""
    if recipe is None:
        found = [run for ledger in workspace.open_ledgers_nearby() for run in ledger.runs(limit=limit)]
        return sorted(found, key=lambda run: run.started_at, reverse=True)[:limit]
    loaded = Recipe.load(workspace.find_recipe(recipe), (), workspace)
    if not loaded.workspace.has_ledger():
        return []
    with loaded.workspace.open_ledger() as ledger:
        return ledger.runs_of(loaded.name, str(loaded.recipe_dir.absolute()), limit=limit)


def run_to_facts(run: Run) -> dict[str, Any]:
    """A run as `luthier runs --json` prints it."""
    return run.model_dump(mode="json", exclude={"recipe_text", "recipe_digest"})


def load_run_recipe(workspace: Workspace, run: Run) -> Recipe:
    """The recipe of a run as it was then, with its overrides."""
    if run.recipe_text is None:
        what = "was recorded by an earlier version of Luthier, which did not keep the recipe"
        known = ", ".join(f"{step.name} {step.artifact[:12]}" for step in run.steps)
        hint = f"name what it made by its digest: {known}" if known else "run the recipe again"
        raise UnknownName(what, where=SourceLocation(field=run.id), hint=hint)
    folder = Path(run.folder)
    shown = workspace.format_path(folder / (run.recipe_file or "recipe.yaml"))
    source = apply_overrides(parse_yaml(run.recipe_text, str(shown)), tuple(run.overrides or ()))
    return Recipe.of(source, workspace.with_folder(folder))


def load_run_plan(workspace: Workspace, run: Run) -> RecipePlan:
    """The steps that a run made or found, with the artifacts that it recorded, whatever became of recipe and data."""
    recipe = load_run_recipe(workspace, run)
    store = recipe.workspace.open_store()
    steps, made = recipe.all_steps(), {step.name: step.artifact for step in run.steps}
    planned = []
    for name in recipe.order():
        if (digest := made.get(name)) is None:
            continue
        manifest = store.open(digest).manifest if store.has(digest) else None
        planned.append(
            PlannedStep(
                name=name,
                step=steps[name],
                digest=digest,
                inputs=manifest.inputs if manifest else {},
                contents=manifest.reads if manifest else {},
                cached=manifest is not None,
                forecast=None,
            )
        )
    return RecipePlan(recipe=recipe, store=store, shared=store.shared or store, steps=tuple(planned), run=run.id)


@dataclass(frozen=True)
class CommandTarget:
    """A word of the command line, the overrides behind it, and the workspace in which both are meant."""

    workspace: Workspace
    word: str | None = None
    overrides: tuple[str, ...] = ()
    command: str = "show {}"
    """The command that it was given to, with `{}` in its place: for the words to type in an error."""

    @classmethod
    def read(
        cls, workspace: Workspace, word: str | None, overrides: Sequence[str] | None = None, command: str = "show {}"
    ) -> Self:
        """A word and what stands behind it; `luthier chat steps.tune.epochs=3` names the recipe here."""
        given = list(overrides or [])
        if word is not None and is_override(workspace, word):
            return cls(workspace, None, (word, *given), command)
        return cls(workspace, word, tuple(given), command)

    @classmethod
    def read_all(cls, workspace: Workspace, words: Iterable[str], command: str) -> list[Self]:
        """Several words of one command, each with the overrides that stand behind it."""
        read: list[tuple[str | None, tuple[str, ...]]] = []
        for word in words:
            if not is_override(workspace, word):
                read.append((word, ()))
            else:
                last, overrides = read.pop() if read else (None, ())
                read.append((last, (*overrides, word)))
        typed = [shlex.join(cls(workspace, word, overrides)._words()) for word, overrides in read]
        return [
            cls(workspace, word, overrides, " ".join([command, *typed[:at], "{}", *typed[at + 1 :]]))
            for at, (word, overrides) in enumerate(read)
        ]

    def __str__(self) -> str:
        return " ".join(self._words())

    def _words(self) -> list[str]:
        return [*([self.word] if self.word is not None else []), *self.overrides]

    def renamed(self, word: str | None) -> CommandTarget:
        """Another word in the same workspace with the same overrides."""
        return CommandTarget(self.workspace, word, self.overrides)

    @property
    def path(self) -> Path:
        """The word as a path."""
        return self.workspace.resolve(self.word or "")

    @property
    def run(self) -> Run | None:
        """The recorded run that the word names; None where it names none."""
        return self.workspace.find_run(self.word) if self.word else None

    @property
    def is_recipe(self) -> bool:
        """Whether a recipe or a run is named, and none of its steps."""
        text = self.word or ""
        if ":" in text:
            return False
        return not text or text.endswith((".yaml", ".yml")) or self.path.exists() or self.run is not None

    def plain(self) -> str:
        """The word alone; `InputError` where overrides stand behind what is no recipe."""
        if self.overrides:
            what = f"overrides change a recipe, and {self.word!r} is none"
            hint = f"name a recipe before {self.overrides[0]}, or leave the overrides out"
            raise InputError(what, where=SourceLocation(field=str(self)), hint=hint)
        return self.word or ""


def is_override(workspace: Workspace, word: str) -> bool:
    """Whether a word of the command line is PATH=VALUE."""
    return "=" in word and not workspace.resolve(word).exists()


@dataclass(frozen=True)
class ArtifactRef:
    """An artifact, and the plan and step that it was found through, when it was."""

    artifact: Artifact
    plan: RecipePlan | None = None
    step: str | None = None

    @property
    def name(self) -> str:
        """What to call it: `recipe:step` with its overrides, `run:step`, or the beginning of its digest."""
        if self.plan is None:
            return self.artifact.digest[:12]
        return format_step_name(self.plan, str(self.step))


def format_step_name(what: RecipePlan, step: str) -> str:
    """What to call a step of a plan."""
    return " ".join([f"{what.run or what.recipe.name}:{step}", *(() if what.run else what.recipe.overrides)])


def find_plan(target: CommandTarget, *, step: str = "") -> RecipePlan:
    """The plan of a recipe with its overrides, or of a run: what each step's artifact is, and whether it is made.

    `step` is what is asked of the recipe (`:tune`), for the error that says how one is named.
    """
    workspace = target.workspace
    if (run := target.run) is not None:
        if target.overrides:
            what = "a run has its overrides already"
            hint = f"leave {' '.join(target.overrides)} out, or name the recipe"
            raise InputError(what, where=SourceLocation(field=str(target)), hint=hint)
        return load_run_plan(workspace, run)
    file = workspace.find_recipe(target.word or None, step=step)
    return build_recipe_plan(Recipe.load(file, target.overrides, workspace), costs_of=())


def find_artifact(target: CommandTarget) -> ArtifactRef:
    """`RECIPE:STEP` with its overrides, `:STEP` (of the recipe here), `RUN:STEP`, or the beginning of an artifact's
    digest."""
    text = target.word or ""
    file, colon, step = text.rpartition(":")
    if colon:
        recipe_plan = find_plan(target.renamed(file or None), step=f":{step}")
        return ArtifactRef(recipe_plan.artifact(step, target.command), recipe_plan, step)
    if re.fullmatch(r"[0-9a-f]{6,32}", text):
        if (run := target.run) is not None:
            steps = ", ".join(made.name for made in run.steps) or "none that was made"
            hint = f"name one of its steps, as {text}:STEP ({steps})"
            raise UnknownName("is a run", where=SourceLocation(field=text), hint=hint)
        return ArtifactRef(target.workspace.find_digest(target.plain()))
    if text.endswith((".yaml", ".yml")) and not target.path.exists():
        raise RecipeError(
            "there is no such recipe", where=SourceLocation(file=text), hint="`luthier new NAME` writes one"
        )
    message = f"expected RECIPE:STEP, RUN:STEP or the beginning of an artifact's digest, got {text!r}"
    hint = "for example recipe.yaml:tune; `luthier show recipe.yaml` lists its steps"
    raise UnknownName(message, where=SourceLocation(field="RECIPE:STEP"), hint=hint)
