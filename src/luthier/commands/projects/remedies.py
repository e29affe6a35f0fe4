"""Findings of a validation in a project, and the recipe change that answers each."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from luthier.artifacts.findings import Finding, Findings, read_findings, read_flagged_rows
from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, SourceLocation, UnknownName, did_you_mean
from luthier.recipe.edit import set_value
from luthier.recipe.planner import RecipePlan
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import parse_yaml

_SHOWN_ROWS = 20
_WITH_FINDINGS = ("findings", "influence")
"""What steps make that find something in data."""


class FlaggedIds(NamedTuple):
    """The first rows that a finding is about, with what is said of each."""

    rows: list[tuple[str, str]]
    total: int


class StepFindings(NamedTuple):
    """What one step found."""

    step: str
    data: str
    """The step whose rows it looked at."""
    findings: Findings
    flagged: dict[str, FlaggedIds]


class RecipeChange(NamedTuple):
    """A recipe's text before and after a change."""

    before: str
    after: str

    def diff(self) -> list[tuple[Literal["same", "added", "removed"], str]]:
        """The lines around what changes, in order, each with what becomes of it."""
        lines = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), lineterm="", n=2)
        kinds: Mapping[str, Literal["same", "added", "removed"]] = {" ": "same", "+": "added", "-": "removed"}
        shown = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        return [(kinds[line[:1]], line[1:]) for line in shown if line[:1] in kinds]


def list_step_findings(plan: RecipePlan) -> Iterator[StepFindings]:
    """What the steps of a plan that validate have found, as far as they are made."""
    for planned in plan:
        if planned.step.makes in _WITH_FINDINGS and planned.cached:
            artifact = plan.artifact(planned.name)
            findings = read_findings(artifact)
            yield StepFindings(
                planned.name, plan.recipe.references(planned.step).get("data", ""), findings, _flagged(artifact)
            )


def _flagged(artifact: Artifact) -> dict[str, FlaggedIds]:
    found: dict[str, FlaggedIds] = {}
    for mark in read_flagged_rows(artifact):
        before = found.get(mark.finding, FlaggedIds([], 0))
        rows = [*before.rows, (mark.id, mark.note)] if before.total < _SHOWN_ROWS else before.rows
        found[mark.finding] = FlaggedIds(rows, before.total + 1)
    return found


def list_flagged_ids(plan: RecipePlan, finding: str) -> list[str]:
    """The ids of the rows that a finding is about, in any step of a plan that is made."""
    artifacts = [
        plan.artifact(planned.name) for planned in plan if planned.step.makes in _WITH_FINDINGS and planned.cached
    ]
    return [mark.id for artifact in artifacts for mark in read_flagged_rows(artifact) if mark.finding == finding]


def build_remedy(file: Path, plan: RecipePlan, step: str, finding: str) -> RecipeChange:
    """The recipe with a finding's remedy; `InputError` where no setting can mend what was found."""
    found = {step_finding.step: step_finding for step_finding in list_step_findings(plan)}
    if step not in found:
        raise UnknownName(f"the step {step[:80]!r} has found nothing", hint=did_you_mean(step, found))
    named = {entry.name: entry for entry in found[step].findings.findings}
    if finding not in named:
        raise UnknownName(f"there is no finding {finding[:80]!r}", hint=did_you_mean(finding, named))
    text = file.read_text(encoding="utf-8")
    return RecipeChange(text, _mended(text, file, found[step].data, _settings(plan, step, named[finding])))


def build_remedies(workspace: Workspace, file: Path, step: str | None) -> tuple[str, dict[str, str]]:
    """The recipe's text with the remedies of what its steps `influence` found, of one or of all, and what was done by
    the name of each finding.

    `InputError` where nothing that hurts was found, or nothing was asked.
    """
    from luthier.commands.projects.workspace import load_made_plan

    where = SourceLocation(file=str(file))
    plan = load_made_plan(workspace, file, "influence").plan
    asking = [planned for planned in plan if planned.step.makes == "influence" and step in (None, planned.name)]
    chosen = [planned.name for planned in asking if planned.cached]
    if not chosen:
        raise _nothing_asked(file, [planned.name for planned in asking], step)
    text, decisions = file.read_text(encoding="utf-8"), dict[str, str]()
    for step_findings in list_step_findings(plan):
        for finding in step_findings.findings.findings:
            if step_findings.step in chosen and finding.mend:
                text = _mended(text, file, step_findings.data, _settings(plan, step_findings.step, finding))
                decisions[f"{step_findings.data}.ops"] = f"exclude_ids: {finding.sentence}"
    if not decisions:
        hint = f"there is nothing to mend; `luthier show {file.name}:{chosen[0]}` tells which rows taught most"
        raise InputError("no row was found that hurts", where=where, hint=hint)
    return text, decisions


def _nothing_asked(file: Path, asking: Sequence[str], step: str | None) -> InputError:
    """That no step `influence` was made: either there is none, or it has not run since the recipe changed."""
    where = SourceLocation(file=str(file))
    if asking:
        what = f"the step `{asking[0]}` has not been run as the recipe stands"
        return InputError(what, where=where, hint=f"run it: luthier run {file.name} --only {asking[0]}")
    named = "" if step is None else f" {step[:80]!r}"
    hint = "add a step `kind: influence` to it (and `keep_states: 4` to the step that tunes), and run it"
    return InputError(f"the recipe has no step{named} of kind `influence`", where=where, hint=hint)


def _settings(plan: RecipePlan, step: str, finding: Finding) -> dict[str, Any]:
    """The settings of the data's step that mend it: where they name some of the rows, all of them."""
    settings = yaml.safe_load(finding.mend) if finding.mend else None
    if not isinstance(settings, dict):
        raise InputError("no setting can mend this", hint=finding.hint or "read the rows, and correct them")
    for operator in settings.get("ops") or ():
        if isinstance(operator, dict) and operator.get("kind") == "exclude_ids":
            artifact = plan.artifact(step)
            ids = [mark.id for mark in read_flagged_rows(artifact) if mark.finding == finding.name]
            if set(operator["ids"]) <= set(ids):
                operator["ids"] = ids
    return settings


def _mended(text: str, file: Path, step: str, settings: Mapping[str, Any]) -> str:
    for name, value in settings.items():
        if isinstance(value, list):
            for item in value:
                text = _with_item(text, file, ("steps", step, name), item)
        elif isinstance(value, dict):
            for inner, entry in value.items():
                text = set_value(text, str(file), ("steps", step, name, str(inner)), entry)
        else:
            text = set_value(text, str(file), ("steps", step, name), value)
    return text


def _with_item(text: str, file: Path, key: tuple[str, ...], item: Any) -> str:
    """The text with one part more in a list; of ids that are left out for the same reason, those that are new."""
    data: Any = parse_yaml(text, str(file)).data
    for part in key:
        data = data.get(part) if isinstance(data, dict) else None
    there: Sequence[Any] = data if isinstance(data, list) else ()
    if item in there:
        return text
    for at, entry in enumerate(there):
        if isinstance(entry, dict) and isinstance(item, dict) and {**entry, "ids": 0} == {**item, "ids": 0}:
            ids = [*entry["ids"], *(name for name in item["ids"] if name not in entry["ids"])]
            return set_value(text, str(file), (*key, at, "ids"), ids)
    return set_value(text, str(file), (*key, len(there)) if there else key, item if there else [item])
