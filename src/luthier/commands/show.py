"""Show a recipe, a run or an artifact: its steps, lineage, files and main numbers.

`luthier show --rendered` prints training rows as the model reads them and marks the trained tokens.
"""

from __future__ import annotations

import math
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from luthier.artifacts.findings import DroppedRow, read_dropped_rows
from luthier.core.artifact import Artifact, ArtifactType
from luthier.core.component import component_of_kind
from luthier.core.db import Run
from luthier.core.errors import InputError, SourceLocation, UnknownName, did_you_mean
from luthier.core.events import RunEventEmitter, format_counted_noun
from luthier.core.step import StepContext
from luthier.recipe.errors import add_indefinite_article
from luthier.recipe.locate import ArtifactRef, CommandTarget, find_artifact, find_plan, run_to_facts
from luthier.recipe.planner import RecipePlan
from luthier.recipe.runner import get_run_log_path

if TYPE_CHECKING:
    from luthier.recipe.schema import Recipe
    from luthier.tune.dataset.preview import RenderedRow, RenderedSequence
    from luthier.tune.steps.tune import Tune

_WIDEST_PLACE = 60


@dataclass(frozen=True, kw_only=True)
class ShowResult:
    """The result of `luthier show`: JSON facts, lines of text, and the path shown."""

    facts: dict[str, Any]
    path: str
    text: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """Lines for a person."""
        return self.text


def describe_target(target: CommandTarget) -> ShowResult:
    """A recipe's steps, a run, or one artifact."""
    if (run := target.run) is not None:
        return describe_run(run, find_plan(target))
    return describe_recipe(target) if target.is_recipe else describe_artifact(target)


def describe_recipe(target: CommandTarget) -> ShowResult:
    """The steps of a recipe and what is made of them."""
    recipe_plan = find_plan(target)
    recipe = recipe_plan.recipe
    steps, lines = _steps(recipe_plan)
    lines.insert(0, " ".join([f"{recipe.name}: {recipe.file}", *recipe.overrides]))
    if any(planned.cached for planned in recipe_plan):
        lines.append(f"next: luthier show {' '.join([f'{recipe.file}:STEP', *map(shlex.quote, recipe.overrides)])}")
    else:
        lines.append(f"next: {recipe_plan.command_to_run}")
    return ShowResult(facts={"recipe": recipe.name, "steps": steps}, path=str(recipe.recipe_dir), text=tuple(lines))


def describe_run(run: Run, what: RecipePlan) -> ShowResult:
    """A run: when and with which overrides it was made, how it ended, what it made and where its log is."""
    log = get_run_log_path(what.store, run.id)
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
    facts = {**run_to_facts(run), "log": str(log), "steps": steps}
    return ShowResult(facts=facts, path=str(log.parent), text=tuple(lines))


def _steps(what: RecipePlan) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The steps of a plan and what is made of them, for programs and for people."""
    steps: dict[str, dict[str, Any]] = {}
    lines = []
    for planned in what:
        path = str(what.store.open(planned.digest).folder) if planned.cached else None
        steps[planned.name] = {
            "kind": planned.step.kind,
            "artifact": planned.digest,
            "made": planned.cached,
            "path": path,
        }
        state = f"made  {planned.digest[:12]}" if planned.cached else "not made"
        lines.append(f"  {planned.name:<12} {planned.step.kind:<10} {state}")
    return steps, lines


def describe_artifact(target: CommandTarget) -> ShowResult:
    """One artifact: what made it, from what, when, and what it holds."""
    artifact_ref = find_artifact(target)
    artifact = artifact_ref.artifact
    manifest = artifact.manifest
    summary = component_of_kind(ArtifactType, manifest.makes).model_validate({}).describe(artifact)
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
    return ShowResult(
        facts=facts, path=str(artifact.folder), text=tuple(_artifact_lines(artifact_ref.name, artifact, summary))
    )


def describe_dropped_rows(target: CommandTarget) -> ShowResult:
    """Every row that a data set left out: why, where it stands, its first words, and of a copy the row that stays."""
    from luthier.artifacts.dataset import DatasetSummary

    artifact_ref = _find_dataset(target)
    dataset_summary, dropped = DatasetSummary.read(artifact_ref.artifact), read_dropped_rows(artifact_ref.artifact)
    rows_in = dataset_summary.rows_in + sum(dataset_summary.made.values())
    facts = {
        "artifact": artifact_ref.artifact.digest,
        "rows_in": rows_in,
        "dropped": dataset_summary.dropped,
        "rows": [{**dropped_row._asdict(), "place": dropped_row.location} for dropped_row in dropped],
    }
    head = f"{artifact_ref.name}: {len(dropped):,} of {format_counted_noun(rows_in, 'row')} left out"
    return ShowResult(facts=facts, path=str(artifact_ref.artifact.folder), text=(head, *_dropped_lines(dropped)))


def _dropped_lines(dropped: Sequence[DroppedRow]) -> Iterator[str]:
    """The rows under their reasons, in columns: place, more of the reason, first words, the row that it repeats."""
    for reason, dropped_rows in groupby(dropped, lambda dropped_row: dropped_row.category):
        rows = list(dropped_rows)
        yield f"{len(rows):,} × {reason}"
        width = min(_WIDEST_PLACE, max(len(row.location) for row in rows))
        for row in rows:
            details = row.reason.partition(": ")[2]
            alike = f" ({row.similarity:.0%} alike)" if row.similarity not in (None, 1) else ""
            repeats = f"repeats {row.twin}{alike}" if row.twin else ""
            words = " · ".join(filter(None, (details, row.text, repeats)))
            yield f"  {row.location:<{width}}  {words}".rstrip()


def _find_dataset(target: CommandTarget) -> ArtifactRef:
    """The data set that is meant: `RECIPE:STEP`, a digest, a step of the recipe here, or the data set of a recipe."""
    text = target.word or ""
    if target.is_recipe and not (text and target.path.is_dir() and not (target.path / "recipe.yaml").is_file()):
        recipe_plan = find_plan(target)
        made = [name for name, step in recipe_plan.recipe.steps.items() if step.makes == "dataset"]
        if not made:
            hint = "name a recipe with a step `prepare`"
            raise InputError(
                "the recipe makes no data set", where=SourceLocation(file=recipe_plan.recipe.file), hint=hint
            )
        artifact_ref = ArtifactRef(recipe_plan.artifact(made[0]), recipe_plan, made[0])
    elif ":" not in text and not re.fullmatch(r"[0-9a-f]{6,32}", text):
        artifact_ref = find_artifact(target.renamed(f":{text}"))
    else:
        artifact_ref = find_artifact(target)
    if (makes := artifact_ref.artifact.manifest.makes) != "dataset":
        hint = "name the step that made the data set, such as recipe.yaml:data"
        raise InputError(
            f"expected a data set, which has dropped rows, got {add_indefinite_article(makes)}",
            where=SourceLocation(field=text),
            hint=hint,
        )
    return artifact_ref


def _artifact_lines(name: str, artifact: Artifact, summary: dict[str, Any]) -> list[str]:
    manifest, timing = artifact.manifest, artifact.timing()
    lines = [
        f"{name}: {add_indefinite_article(manifest.makes)} made by {manifest.kind!r}",
        f"  artifact   {artifact.digest}",
    ]
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


OPEN, CLOSE = "⟦", "⟧"
"""What stands around trained tokens, so that they are told apart without colour."""


class DisplaySegment(NamedTuple):
    """Text to print, and whether it is of trained tokens."""

    text: str
    trained: bool = False


class TrainingRowsPreview(NamedTuple):
    """Training rows as the model sees them: JSON facts, and text segments for the terminal."""

    facts: dict[str, Any]
    pieces: list[DisplaySegment]


def show_training_rows(target: CommandTarget, number: int, *, ids: bool = False) -> TrainingRowsPreview:
    """The first training rows of a step that tunes, or of the one that trains on a data set.

    `target` is RECIPE:STEP or RUN:STEP, a step of the recipe here, or a recipe that tunes once.
    """
    from luthier.models.load import find_base_folder, get_model_name, require_local_weights
    from luthier.tune.dataset.preview import render_training_rows
    from luthier.tune.dataset.tool_rows import refuse_tool_rows

    file, name = _split(target)
    recipe_plan = find_plan(target.renamed(file), step=f":{name or 'STEP'}")
    recipe = recipe_plan.recipe
    chosen, step = _tuning(recipe, name)
    inputs = {field: _made(recipe_plan, chosen, field) for field in ("data", "model")}
    require_local_weights(inputs["model"])
    refuse_tool_rows(inputs["data"], inputs["model"])
    with tempfile.TemporaryDirectory() as scratch:
        work = StepContext(
            name=chosen, inputs=inputs, folder=Path(scratch), scratch=Path(scratch), recipe_dir=recipe.recipe_dir,
            seed=recipe.seed, events=RunEventEmitter().of(chosen),
        )  # fmt: skip
        rows = render_training_rows(step, work, number)
    base = get_model_name(inputs["model"])
    facts = {
        "recipe": recipe.name,
        "step": chosen,
        "model": base,
        "tokenizer": str(find_base_folder(inputs["model"])),
        "objective": step.objective.settings(),
        "rows": [row.as_json(ids=True) for row in rows],
    }
    head = f"{format_counted_noun(len(rows), 'row')} as {base} sees them in {chosen}"
    head += f"; tokens between {OPEN} and {CLOSE} are trained on\n"
    return TrainingRowsPreview(
        facts, [DisplaySegment(head), *(piece for row in rows for piece in _pieces(row, step, ids=ids))]
    )


def _split(target: CommandTarget) -> tuple[str | None, str | None]:
    """The recipe, or the run, and the step that a word names."""
    if (word := target.word) is None:
        return None, None
    file, colon, name = word.rpartition(":")
    if colon:
        return file or None, name
    return (word, None) if target.is_recipe else (None, word)


def _tuning(recipe: Recipe, name: str | None) -> tuple[str, Tune]:
    """The step that trains: the one that is named, or the only one that reads the named data."""
    from luthier.tune.steps.tune import Tune
    from luthier.tune.technique import StandaloneTechnique

    tunes = {key: step for key, step in recipe.steps.items() if isinstance(step, Tune)}
    if name is not None and name not in recipe.all_steps():
        where = SourceLocation(file=recipe.file, field="steps")
        raise UnknownName(f"there is no step {name!r}", where=where, hint=did_you_mean(name, recipe.steps))
    if name in tunes:
        found = [name]
    else:
        found = [key for key, step in tunes.items() if name is None or recipe.references(step).get("data") == name]
    if len(found) != 1:
        raise _unclear(recipe, name, found, list(tunes))
    chosen = found[0]
    if isinstance(tunes[chosen].technique, StandaloneTechnique):
        what = f"{tunes[chosen].technique.kind} moves no weights: no token is trained on"
        raise InputError(
            what, where=SourceLocation(file=recipe.file, field=f"steps.{chosen}"), hint="name another step"
        )
    return chosen, tunes[chosen]


def _unclear(recipe: Recipe, name: str | None, found: Sequence[str], tunes: Sequence[str]) -> InputError:
    """Why it is not clear by which step rows are read."""
    of = f"on {name!r}" if name is not None else "here"
    example = f"luthier show {recipe.file}:{(found or tunes or ['STEP'])[0]} --rendered 3"
    where = SourceLocation(file=recipe.file, field="steps")
    if found:
        return InputError(f"several steps train {of}: {', '.join(found)}", where=where, hint=f"name one: {example}")
    hint = f"name a step that tunes: {example}" if tunes else "add a step of kind `tune` that reads it"
    return UnknownName(f"no step trains {of}, so that no model says how rows are read", where=where, hint=hint)


def _made(what: RecipePlan, step: str, field: str) -> Any:
    """An input of a step that is made; `UnknownName` says what makes it."""
    planned = what[step]
    if what.store.has(digest := planned.inputs[field]):
        return what.store.open(digest)
    missing = [other for name, other in what.recipe.references(planned.step).items() if name in ("data", "model")]
    only = " ".join(f"--only {other}" for other in missing if not what[other].cached)
    hint = f"`luthier run {what.recipe.file} {only}` makes what is read, and trains nothing"
    where = SourceLocation(file=what.recipe.file, field=f"steps.{step}.{field}")
    raise UnknownName(f"the {field} that {step!r} reads is not made yet", where=where, hint=hint)


def _pieces(row: RenderedRow, step: Tune, *, ids: bool) -> Iterator[DisplaySegment]:
    yield DisplaySegment(f"\n── {row.origin.file}:{row.origin.line}  {row.id}\n")
    if row.nothing:
        yield DisplaySegment(f"left out: {row.nothing}\n")
    for sequence in row.sequences:
        yield DisplaySegment(f"{_counts(row, sequence, step)}\n")
        yield from _by_token(sequence) if ids else _by_stretch(sequence)


def _counts(row: RenderedRow, sequence: RenderedSequence, step: Tune) -> str:
    """How much is read and trained on, and what was cut off."""
    name = f"{sequence.name}: " if sequence.name else ""
    kept = {"prompt": "the oldest of the prompt", "right": "the end of the row"}.get(
        getattr(step.objective, "truncation", ""), ""
    )
    cut = f", {row.cut:,} cut off{f' ({kept})' if kept else ''}" if row.cut else ""
    drawn = "; the model's own answers are trained on, which it writes in training" if step.objective.draws else ""
    return f"{name}{format_counted_noun(len(sequence.tokens), 'token')}, {sequence.trained:,} trained on{cut}{drawn}"


def _by_stretch(sequence: RenderedSequence) -> Iterator[DisplaySegment]:
    for stretch in sequence.stretches:
        text = _visible(stretch.text)
        yield DisplaySegment(f"{OPEN}{text}{CLOSE}" if stretch.trained else text, stretch.trained)
    yield DisplaySegment("\n")


def _by_token(sequence: RenderedSequence) -> Iterator[DisplaySegment]:
    """A line a token: its place, its id, whether it is trained on, its text."""
    for index, token in enumerate(sequence.tokens):
        marks = (OPEN, CLOSE) if token.trained else (" ", " ")
        yield DisplaySegment(f"{index:6} {token.id:8} {marks[0]}{token.text!r}{marks[1]}\n", token.trained)


def _visible(text: str) -> str:
    """Text that a terminal prints as it is: what would move its cursor or change its colours is spelled out."""
    return "".join(char if char.isprintable() or char in "\n\t" else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode()
