"""What `luthier show` tells: a recipe's steps, or one artifact with its making, its files and its main numbers."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from luthier.core.artifact import Artifact
from luthier.core.artifact_type import ArtifactType
from luthier.core.component import member
from luthier.core.counted import counted
from luthier.core.errors import InputError, Where
from luthier.core.ledger import Run
from luthier.flow.here import find_run
from luthier.flow.locate import Found, Target, find_artifact, find_plan
from luthier.flow.plan import Plan
from luthier.flow.record import run_log
from luthier.flow.runs import run_facts
from luthier.flow.wording import a
from luthier.text.dropped import DroppedRow, read_dropped

_WIDEST_PLACE = 60


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Something to look at: facts for programs, lines for people, and the folder it is in."""

    facts: dict[str, Any]
    place: str
    text: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """Lines for a person."""
        return self.text


def describe(target: Target) -> Shown:
    """A recipe's steps, a run, or one artifact."""
    run = find_run(target.word) if target.word else None
    if run is not None:
        return describe_run(run, find_plan(target))
    return describe_recipe(target) if target.is_recipe else describe_artifact(target)


def describe_recipe(target: Target) -> Shown:
    """The steps of a recipe and what is made of them."""
    what = find_plan(target)
    recipe = what.recipe
    steps, lines = _steps(what)
    lines.insert(0, " ".join([f"{recipe.name}: {recipe.file}", *recipe.overrides]))
    if any(planned.cached for planned in what):
        lines.append(f"next: luthier show {' '.join([f'{recipe.file}:STEP', *map(shlex.quote, recipe.overrides)])}")
    else:
        lines.append(f"next: {what.command_to_run}")
    return Shown(facts={"recipe": recipe.name, "steps": steps}, place=str(recipe.base), text=tuple(lines))


def describe_run(run: Run, what: Plan) -> Shown:
    """A run: when and with which overrides it was made, how it ended, what it made and where its log is."""
    log = run_log(what.store, run.id)
    steps, made = _steps(what)
    ended = f"{run.state}, exit {run.exit_code}" if run.exit_code is not None else run.state
    why = (run.error or {}).get("error", {}).get("message")
    lines = [
        f"run {run.id} of {run.recipe}: {what.recipe.file}",
        f"  began      {run.started_at:%Y-%m-%d %H:%M:%S} UTC",
        f"  overrides  {shlex.join(what.recipe.overrides) or 'none'}",
        f"  ended      {ended}",
        *([f"  error      {why}"] if why else []),
        f"  log        {log}",
        *made,
    ]
    if made:
        lines.append(f"next: luthier show {run.id}:STEP")
    facts = {**run_facts(run), "log": str(log), "steps": steps}
    return Shown(facts=facts, place=str(log.parent), text=tuple(lines))


def _steps(what: Plan) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The steps of a plan and what is made of them, for programs and for people."""
    steps: dict[str, dict[str, Any]] = {}
    lines = []
    for planned in what:
        place = str(what.store.open(planned.digest).folder) if planned.cached else None
        steps[planned.name] = {
            "kind": planned.step.kind,
            "artifact": planned.digest,
            "made": planned.cached,
            "path": place,
        }
        state = f"made  {planned.digest[:12]}" if planned.cached else "not made"
        lines.append(f"  {planned.name:<12} {planned.step.kind:<10} {state}")
    return steps, lines


def describe_artifact(target: Target) -> Shown:
    """One artifact: what made it, from what, when, and what it holds."""
    found = find_artifact(target)
    artifact = found.artifact
    manifest = artifact.manifest
    summary = member(ArtifactType, manifest.makes).model_validate({}).describe(artifact)
    facts = {
        "artifact": artifact.digest,
        "kind": manifest.kind,
        "makes": manifest.makes,
        "path": str(artifact.folder),
        "inputs": manifest.inputs,
        "settings": manifest.settings,
        "timing": artifact.timing(),
        "files": [entry.model_dump() for entry in manifest.files],
        "summary": summary,
    }
    return Shown(facts=facts, place=str(artifact.folder), text=tuple(_artifact_lines(found.name, artifact, summary)))


def describe_dropped(target: Target) -> Shown:
    """Every row that a data set left out: why, where it stands, its first words, and of a copy the row that stays."""
    from luthier.text.dataset import DatasetSummary

    found = _find_dataset(target)
    told, dropped = DatasetSummary.read(found.artifact), read_dropped(found.artifact)
    rows_in = told.rows_in + sum(told.made.values())
    facts = {
        "artifact": found.artifact.digest,
        "rows_in": rows_in,
        "dropped": told.dropped,
        "rows": [{**one._asdict(), "place": one.place} for one in dropped],
    }
    head = f"{found.name}: {len(dropped):,} of {counted(rows_in, 'row')} left out"
    return Shown(facts=facts, place=str(found.artifact.folder), text=(head, *_dropped_lines(dropped)))


def _dropped_lines(dropped: Sequence[DroppedRow]) -> Iterator[str]:
    """The rows under their reasons, in columns: place, more of the reason, first words, the row that it repeats."""
    for reason, found in groupby(dropped, lambda one: one.category):
        rows = list(found)
        yield f"{len(rows):,} × {reason}"
        width = min(_WIDEST_PLACE, max(len(one.place) for one in rows))
        for one in rows:
            details = one.reason.partition(": ")[2]
            alike = f" ({one.similarity:.0%} alike)" if one.similarity not in (None, 1) else ""
            repeats = f"repeats {one.twin}{alike}" if one.twin else ""
            words = " · ".join(filter(None, (details, one.text, repeats)))
            yield f"  {one.place:<{width}}  {words}".rstrip()


def _find_dataset(target: Target) -> Found:
    """The data set that is meant: `RECIPE:STEP`, a digest, a step of the recipe here, or the data set of a recipe."""
    text = target.word or ""
    if target.is_recipe and not (Path(text).is_dir() and text and not (Path(text) / "recipe.yaml").is_file()):
        what = find_plan(target)
        made = [name for name, step in what.recipe.steps.items() if step.makes == "dataset"]
        if not made:
            remedy = "name a recipe with a step `prepare`"
            raise InputError("the recipe makes no data set", where=Where(file=what.recipe.file), remedy=remedy)
        found = Found(what.artifact(made[0]), what, made[0])
    elif ":" not in text and not re.fullmatch(r"[0-9a-f]{6,32}", text):
        found = find_artifact(Target(f":{text}", target.overrides))
    else:
        found = find_artifact(target)
    if (makes := found.artifact.manifest.makes) != "dataset":
        remedy = "name the step that made the data set, such as recipe.yaml:data"
        raise InputError(
            f"expected a data set, which has dropped rows, got {a(makes)}", where=Where(field=text), remedy=remedy
        )
    return found


def _artifact_lines(name: str, artifact: Artifact, summary: dict[str, Any]) -> list[str]:
    manifest, timing = artifact.manifest, artifact.timing()
    lines = [f"{name}: {a(manifest.makes)} made by {manifest.kind!r}", f"  artifact   {artifact.digest}"]
    lines.append(f"  folder     {artifact.folder}")
    lines += [f"  from       {field}: {digest[:12]}" for field, digest in manifest.inputs.items()]
    if "seconds" in timing:
        peak = timing.get("peak_bytes", 0) / 1e6
        lines.append(f"  took       {timing['seconds']:.1f} s, at most {peak:.0f} MB")
    lines += [f"  {key:<10} {_as_written(value)}" for key, value in summary.items()]
    lines += [f"  file       {entry.path} ({entry.size:,} bytes)" for entry in manifest.files]
    return lines


def _as_written(value: Any) -> str:
    """A value as a recipe has it: YAML in one line, and text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "kind" in value:
        value = {"kind": value["kind"], **value}
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")
