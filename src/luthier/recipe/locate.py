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

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from luthier.core.artifact import Artifact
from luthier.core.db import Ledger, Run, ledger_url
from luthier.core.errors import InputError, RecipeError, SourceLocation, UnknownName
from luthier.recipe.planner import PlannedStep, RecipePlan, build_recipe_plan, has_ledger, open_recipe_store
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import find_digest, find_recipe, find_run, find_workspace_folder
from luthier.recipe.yaml import apply_overrides, parse_yaml


def list_runs(recipe: Path | None, *, limit: int) -> list[Run]:
    """The latest runs in the folder that is meant, or those of one recipe in it; the latest first."""
    loaded = Recipe.load(find_recipe(recipe)) if recipe is not None else None
    store = open_recipe_store(loaded.base if loaded is not None else find_workspace_folder())
    if not has_ledger(store):
        return []
    with Ledger(ledger_url(store.root)) as ledger:
        if loaded is None:
            return ledger.runs(limit=limit)
        return ledger.runs_of(loaded.name, str(loaded.base.absolute()), limit=limit)


def run_to_facts(run: Run) -> dict[str, Any]:
    """A run as `luthier runs --json` prints it."""
    return run.model_dump(mode="json", exclude={"recipe_text", "recipe_digest"})


def load_run_recipe(run: Run) -> Recipe:
    """The recipe of a run as it was then, with its overrides."""
    if run.recipe_text is None:
        what = "was recorded by an earlier version of Luthier, which did not keep the recipe"
        known = ", ".join(f"{step.name} {step.artifact[:12]}" for step in run.steps)
        hint = f"name what it made by its digest: {known}" if known else "run the recipe again"
        raise UnknownName(what, where=SourceLocation(field=run.id), hint=hint)
    base = Path(run.folder)
    file = base / (run.recipe_file or "recipe.yaml")
    shown = os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)
    return Recipe.of(apply_overrides(parse_yaml(run.recipe_text, shown), tuple(run.overrides or ())), base)


def load_run_plan(run: Run) -> RecipePlan:
    """The steps that a run made or found, with the artifacts that it recorded, whatever became of recipe and data."""
    recipe = load_run_recipe(run)
    store = open_recipe_store(recipe.base)
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
    """A word of the command line, and the overrides behind it."""

    word: str | None = None
    overrides: tuple[str, ...] = ()
    command: str = "show {}"
    """The command that it was given to, with `{}` in its place: for the words to type in an error."""

    @classmethod
    def of(cls, named: CommandTarget | Path | str | None) -> CommandTarget:
        """A target, or a word without overrides."""
        if isinstance(named, CommandTarget):
            return named
        return cls(str(named) if named is not None else None)

    @classmethod
    def read(cls, word: str | None, overrides: Sequence[str] | None = None, command: str = "show {}") -> Self:
        """A word and what stands behind it; `luthier chat steps.tune.epochs=3` names the recipe here."""
        given = list(overrides or [])
        if word is not None and is_override(word):
            return cls(None, (word, *given), command)
        return cls(word, tuple(given), command)

    @classmethod
    def read_all(cls, words: Iterable[str], command: str) -> list[Self]:
        """Several words of one command, each with the overrides that stand behind it."""
        read: list[tuple[str | None, tuple[str, ...]]] = []
        for word in words:
            if not is_override(word):
                read.append((word, ()))
            else:
                last, overrides = read.pop() if read else (None, ())
                read.append((last, (*overrides, word)))
        typed = [shlex.join(cls(word, overrides)._words()) for word, overrides in read]
        return [
            cls(word, overrides, " ".join([command, *typed[:at], "{}", *typed[at + 1 :]]))
            for at, (word, overrides) in enumerate(read)
        ]

    def __str__(self) -> str:
        return " ".join(self._words())

    def _words(self) -> list[str]:
        return [*([self.word] if self.word is not None else []), *self.overrides]

    @property
    def is_recipe(self) -> bool:
        """Whether a recipe or a run is named, and none of its steps."""
        text = self.word or ""
        if ":" in text:
            return False
        return not text or text.endswith((".yaml", ".yml")) or Path(text).exists() or find_run(text) is not None

    def plain(self) -> str:
        """The word alone; `InputError` where overrides stand behind what is no recipe."""
        if self.overrides:
            what = f"overrides change a recipe, and {self.word!r} is none"
            hint = f"name a recipe before {self.overrides[0]}, or leave the overrides out"
            raise InputError(what, where=SourceLocation(field=str(self)), hint=hint)
        return self.word or ""


def is_override(word: str) -> bool:
    """Whether a word of the command line is PATH=VALUE."""
    return "=" in word and not Path(word).exists()


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


def find_plan(named: CommandTarget | str | None, *, step: str = "") -> RecipePlan:
    """The plan of a recipe with its overrides, or of a run: what each step's artifact is, and whether it is made.

    `step` is what is asked of the recipe (`:tune`), for the error that says how one is named.
    """
    target = CommandTarget.of(named)
    run = find_run(target.word) if target.word else None
    if run is not None:
        if target.overrides:
            what = "a run has its overrides already"
            hint = f"leave {' '.join(target.overrides)} out, or name the recipe"
            raise InputError(what, where=SourceLocation(field=str(target)), hint=hint)
        return load_run_plan(run)
    file = find_recipe(Path(target.word) if target.word else None, step=step)
    return build_recipe_plan(Recipe.load(file, target.overrides), costs_of=())


def find_artifact(named: CommandTarget | str | None) -> ArtifactRef:
    """`RECIPE:STEP` with its overrides, `:STEP` (of the recipe here), `RUN:STEP`, or the beginning of an artifact's
    digest."""
    target = CommandTarget.of(named)
    text = target.word or ""
    file, colon, step = text.rpartition(":")
    if colon:
        what = find_plan(CommandTarget(file or None, target.overrides), step=f":{step}")
        return ArtifactRef(what.artifact(step, target.command), what, step)
    if re.fullmatch(r"[0-9a-f]{6,32}", text):
        if (run := find_run(text)) is not None:
            steps = ", ".join(made.name for made in run.steps) or "none that was made"
            hint = f"name one of its steps, as {text}:STEP ({steps})"
            raise UnknownName("is a run", where=SourceLocation(field=text), hint=hint)
        return ArtifactRef(find_digest(target.plain()))
    if text.endswith((".yaml", ".yml")) and not Path(text).exists():
        raise RecipeError(
            "there is no such recipe", where=SourceLocation(file=text), hint="`luthier new NAME` writes one"
        )
    message = f"expected RECIPE:STEP, RUN:STEP or the beginning of an artifact's digest, got {text!r}"
    hint = "for example recipe.yaml:tune; `luthier show recipe.yaml` lists its steps"
    raise UnknownName(message, where=SourceLocation(field="RECIPE:STEP"), hint=hint)
