"""Decisions about single rows, in a file next to the recipe, which the recipe then names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import resolve_path, write_atomically
from luthier.data.history.corrections import RowCorrection, RowDecision, append_correction, read_row_decisions
from luthier.recipe.edit import set_value
from luthier.recipe.locate import CommandTarget
from luthier.recipe.planner import RecipePlan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import Key, parse_yaml

_KIND = "corrections"


class CorrectionsFile(NamedTuple):
    """The file of decisions of a step, and the recipe's text with the operator that reads it."""

    path: Path
    recipe_text: str
    is_named: bool
    """Whether the recipe already names the file."""


def find_corrections_file(file: Path, step: str) -> CorrectionsFile:
    """Return the decisions file of a step `prepare`; `InputError` for another kind of step."""
    text = file.read_text(encoding="utf-8")
    settings = _settings(text, file, step)
    ops = settings.get("ops") or []
    for at, op in enumerate(ops if isinstance(ops, list) else []):
        if (op.get("kind") if isinstance(op, dict) else op) == _KIND:
            written = op.get("path") if isinstance(op, dict) else None
            if written:
                return CorrectionsFile(resolve_path(str(written), file.parent), text, is_named=True)
            return _named(file, text, ("steps", step, "ops", at, "path"))
    key: Key = ("steps", step, "ops", len(ops)) if ops else ("steps", step, "ops")
    return _named(file, text, key)


def _named(file: Path, text: str, key: Key) -> CorrectionsFile:
    name = "corrections.jsonl" if file.name == "recipe.yaml" else f"{file.stem}.corrections.jsonl"
    operator: Any = {"kind": _KIND, "path": name}
    value = name if key[-1] == "path" else operator if isinstance(key[-1], int) else [operator]
    return CorrectionsFile(file.parent / name, set_value(text, str(file), key, value), is_named=False)


def _settings(text: str, file: Path, step: str) -> dict[str, Any]:
    steps = parse_yaml(text, str(file)).data.get("steps")
    settings = steps.get(step) if isinstance(steps, dict) else None
    if not isinstance(settings, dict) or settings.get("kind") != "prepare":
        hint = "correct them in the step `prepare` that they come from"
        where = SourceLocation(file=str(file), field=f"steps.{step}")
        raise InputError("rows are corrected where they are prepared, and this step does not", where=where, hint=hint)
    return settings


def read_step_decisions(file: Path, step: str) -> dict[str, RowDecision]:
    """Return the decisions about a step's rows; empty where it prepares none."""
    try:
        return read_row_decisions(find_corrections_file(file, step).path)
    except InputError:
        return {}


def correct_rows(workspace: Workspace, file: Path, step: str, corrections: Sequence[RowCorrection]) -> Path:
    """Write decisions down, and name their file in the recipe where it does not yet; returns the file.

    Raises:
        InputError: the step prepares no rows.
        RecipeError: the recipe is none, or cannot be changed in its layout; then nothing is written.
    """
    found = find_corrections_file(file, step)
    Recipe.of(parse_yaml(found.recipe_text, str(file)), workspace.with_folder(file.parent))
    allowed = (workspace.folder.resolve(), file.parent.resolve())
    if not any(found.path.resolve().is_relative_to(folder) for folder in allowed):
        hint = "decisions are written into the workspace and beside the recipe alone: name a file there"
        raise InputError("lies outside the workspace", where=SourceLocation(file=str(found.path)), hint=hint)
    for correction in corrections:
        append_correction(found.path, correction)
    if not found.is_named:
        write_atomically(file, found.recipe_text.encode())
    return found.path


def decide(
    row: str,
    target: CommandTarget,
    *,
    answer: str | None,
    drop: bool,
    restore: bool,
    reason: str,
    by: str,
    new_class: bool = False,
) -> DecidedRow:
    """Write down one decision about a row of a recipe, which may be named by the beginning of its id.

    Where answers are classes, an answer is one of them, in any case, or with `new_class` another one.
    """
    from luthier.commands.lineage import trace_example
    from luthier.commands.projects.workspace import load_made_plan

    if (answer is not None) + drop + restore != 1:
        hint = "give one of --answer TEXT, --drop and --restore"
        raise InputError("expected one decision", where=SourceLocation(field=row), hint=hint)
    file = target.workspace.find_recipe(target.word)
    own = target.workspace.with_folder(file.parent)
    made_plan = load_made_plan(own, file, "dataset")  # of an earlier run, where decisions since then wait for the next
    lineage = trace_example(row, CommandTarget(own, made_plan.word)).lineage
    step = _preparing_step(file)
    known = {"row": lineage["id"], "reason": reason, "by": by, "at": datetime.now(UTC)}
    if answer is None:
        correction = RowCorrection(action="drop" if drop else "restore", **known)
    elif not lineage["messages"]:
        raise InputError("is left out: it has no answer to correct", where=SourceLocation(field=row), hint="--restore")
    else:
        answer = answer if new_class else match_class(made_plan.plan, step, answer, option="give --new-class")
        field = f"messages[{len(lineage['messages']) - 1}].content"
        correction = RowCorrection(action="edit", field=field, text=answer, **known)
    return DecidedRow(correction, correct_rows(target.workspace, file, step, [correction]))


def match_class(plan: RecipePlan, step: str, answer: str, *, option: str) -> str:
    """Return an answer in the spelling of its class; `UnknownClass` where the answers are classes and it is none.
    `option` says how to add a class.
    """
    from luthier.artifacts.dataset import DatasetSummary
    from luthier.recipe.predict import UnknownClass, format_similar_classes

    made = next((planned for planned in plan if planned.name == step and planned.cached), None)
    summary = DatasetSummary.read(plan.artifact(step)) if made is not None else None
    if summary is None or summary.task != "label" or answer in summary.labels:
        return answer
    meant = [label for label in summary.labels if label.casefold() == answer.strip().casefold()]
    if len(meant) == 1:
        return meant[0]
    similar = format_similar_classes(answer, summary.labels)
    hint = f"its classes: {similar}. To add a new class, {option}"
    raise UnknownClass(f"{answer!r} is no class of {step!r}", hint=hint)


class DecidedRow(NamedTuple):
    """A decision, and the file that it was written to."""

    correction: RowCorrection
    path: Path


def _preparing_step(file: Path) -> str:
    steps = parse_yaml(file.read_text(encoding="utf-8"), str(file)).data.get("steps") or {}
    found = [name for name, step in steps.items() if isinstance(step, dict) and step.get("kind") == "prepare"]
    if len(found) != 1:
        hint = "add the operator `corrections` to the step that the row comes from"
        raise InputError(f"{len(found)} of its steps prepare rows", where=SourceLocation(file=str(file)), hint=hint)
    return str(found[0])
