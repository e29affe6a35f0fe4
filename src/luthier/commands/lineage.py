"""The full history of an example: origin, edits, trained models, and their answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from luthier.artifacts.explanation import ExplanationSummary, read_explanations
from luthier.artifacts.findings import format_file_location, read_flagged_rows
from luthier.chat.messages import Media
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError, SourceLocation, UnknownName
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.history.lineage import explain_example, list_derived_rows
from luthier.eval.predictions import find_example_answers
from luthier.pii.hmac_key import TAG
from luthier.recipe.locate import CommandTarget, find_plan
from luthier.recipe.planner import RecipePlan
from luthier.recipe.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ExampleLineage:
    """The history of one example in one recipe: source, edits, split, models and answers."""

    lineage: dict[str, Any]
    """Origin, edits, split or reason of being dropped (see `luthier.data.history.lineage`)."""
    trained_models: list[dict[str, Any]]
    """Models that were tuned on it: step, artifact, how often the saved weights and the whole training saw it, why it
    was not learnt, tokens, runs."""
    answers: list[dict[str, Any]]
    """Each model's answer in each evaluation."""
    children: list[dict[str, Any]]
    """Rows that were made out of it: step, id, by which augmenter."""
    doubts: list[dict[str, Any]]
    """Findings that name it: step, finding, score, note."""
    explanations: list[dict[str, Any]]
    """Why models answered it so: step, method, target, the strongest units with their scores, verdict."""
    later: list[dict[str, Any]]
    """What other data sets of the recipe made of it: step, split, reason of being dropped, edits, label."""

    @property
    def facts(self) -> dict[str, Any]:
        """The story as `trace --json` prints it."""
        names = ("doubts", "later", "children", "trained_models", "answers", "explanations")
        return {**self.lineage, **{name: getattr(self, name) for name in names}}

    def lines(self) -> Iterator[str]:
        """The story for a person."""
        yield from _story_lines(self.lineage)
        for doubt in self.doubts:
            step, finding, note = doubt["step"], doubt["finding"], doubt["note"]
            yield gettext_noop(f"{step}: named by {finding}: {note}" if note else f"{step}: named by {finding}")
        for entry in self.later:
            yield from (f"{entry['step']}: {line}" for line in _later_lines(entry))
        for child in self.children:
            yield f"{child['step']}: {child['by']} made {child['id']} out of it"
        for trained_model in self.trained_models:
            yield _learnt_line(trained_model)
            runs = ", ".join(trained_model["runs"])
            yield gettext_noop(f"  in the runs {runs}" if runs else "  in the runs (made outside a recorded run)")
        for answer in self.answers:
            step, model, prediction = answer["step"], f"{answer['model']:<10}", answer["prediction"]
            yield {
                True: gettext_noop(f"{step}: {model} answered {prediction!r} right"),
                False: gettext_noop(f"{step}: {model} answered {prediction!r} wrong"),
                None: gettext_noop(f"{step}: {model} answered {prediction!r}"),
            }[answer["correct"]]
        for entry in self.explanations:
            units = ", ".join(f"{unit['text']!r} {unit['score']:+.2f}" for unit in entry["units"])
            yield f"{entry['step']}: {entry['model']} answered {entry['target']!r}, by {entry['method']}, for {units}"
            yield f"  {entry['verdict']}"


def _learnt_line(training: dict[str, Any]) -> str:
    """Describe how often a model was trained on an example, or why it was not."""
    by = f"{training['step']} ({training['artifact'][:12]})"
    if not training["times"]:
        late = "it was seen after the weights that were saved" if training["seen"] else "its turn never came"
        return f"not learnt by {by}: {training['nothing'] or late}"
    times, tokens = training["times"], training["tokens"]
    token_count = gettext_noop(f"{format_counted_noun(tokens, 'token')}")
    return gettext_noop(
        f"learnt by {by}, {format_counted_noun(times, 'time')}, {token_count}"
        + (", cut to fit" if training["cut"] else "")
    )


def _story_lines(lineage: dict[str, Any]) -> Iterator[str]:
    """Origin, messages, edits and split of an example, for a person."""
    origin = lineage["origin"]
    row, kind = lineage["id"], lineage["kind"]
    yield gettext_noop(f"example {row}, a {kind} example" if kind else f"example {row}")
    location = format_file_location(origin["file"], origin["line"], origin.get("row"))
    source = origin["source"]
    yield gettext_noop(f"from {location} ({source})")
    if made := lineage["made"]:
        yield f"made by {made['by']} out of {', '.join(made['parents'])}: {'; '.join(made['did'])}"
    for event in lineage["events"]:
        if event["action"] != "drop" and event["before"] is not None:
            yield f"{event['operator']}: {_edit(event)}"
    if tag := next((match[0] for event in lineage["events"] if (match := TAG.search(event["before"] or ""))), None):
        yield f"{tag} stands for what was found, which is not kept: the same letters for the same value"
    for operator, columns in lineage["attributes"].items():
        if noted := [f"{name} {value}" for name, value in columns.items() if value is not None]:
            yield f"{operator}: {', '.join(noted)}"
    for message in lineage["messages"] or ():
        yield from _turn_lines(message)
    yield from _fate(lineage)


def _turn_lines(message: dict[str, Any]) -> Iterator[str]:
    """Return a turn's text and its tool calls."""
    calls = message.get("tool_calls") or ()
    if message.get("content") or not calls:
        yield f"{message['role']:<10} {message.get('content', '')!r}"
    yield from (
        f"{message['role']:<10} shows {Media.model_validate(medium).describe()}" for medium in message.get("media", ())
    )
    yield from (
        f"{message['role']:<10} calls {call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})"
        for call in calls
    )


def _edit(event: dict[str, Any]) -> str:
    location = f"{event['field']}[{event['start']}:{event['end']}]" if event["start"] is not None else event["field"]
    return f"{event['reason']}: {location} {event['before']!r} → {event['after']!r}"


def _later_lines(lineage: dict[str, Any]) -> Iterator[str]:
    """Describe what a later data set did to an example."""
    yield from (
        _edit(event) for event in lineage["events"] if event["action"] == "edit" and event["before"] is not None
    )
    yield from _fate(lineage)


def _fate(lineage: dict[str, Any]) -> Iterator[str]:
    """The split of a row, or why it is in none; a row that came twice may be left out once and stand all the same."""
    if lineage["dropped"]:
        yield _dropped(lineage["dropped"])
        return
    split = lineage["split"]
    yield gettext_noop(f"in the split {split}")
    for event in lineage["events"]:
        if event["action"] == "drop":
            yield f"came once more and was left out then by {event['operator']}: {event['reason']}"


def _dropped(drop: dict[str, Any]) -> str:
    twin = f"; its twin is {drop['twin']}" if drop["twin"] else ""
    alike = f", {drop['similarity']:.0%} alike" if drop["similarity"] is not None else ""
    return f"dropped by {drop['operator']}: {drop['reason']}{twin}{alike}"


def trace_example(example: str, target: CommandTarget) -> ExampleLineage:
    """Find an example by its id (or the beginning of it) in the data sets of a recipe with its overrides, or of a
    run."""
    is_named = target.word is not None or target.overrides
    recipe_plan, found = _in_recipe(example, target) if is_named else _holding(example, target.workspace)
    made = [(planned.name, recipe_plan.store.open(planned.digest)) for planned in recipe_plan if planned.cached]
    trained_models = [
        row for name, artifact in made for row in _learnt(name, artifact, found["id"], recipe_plan.recipe.workspace)
    ]
    answered = [
        {"step": name, **answer.as_json()}
        for name, artifact in made
        if artifact.manifest.makes == "evaluation"
        for answer in find_example_answers(artifact, found["id"])
    ]
    explanations = [{"step": name, **entry} for name, artifact in made for entry in _explained(artifact, found["id"])]
    doubts = [{"step": name, **mark} for name, artifact in made for mark in _doubts(artifact, found["id"])]
    made = [(name, artifact) for name, artifact in made if artifact.manifest.makes == "dataset"]
    born = [{"step": name, **child} for name, artifact in made for child in list_derived_rows(artifact, found["id"])]
    later = list(_later(made, found["id"]))
    return ExampleLineage(
        lineage=found, doubts=doubts, trained_models=trained_models, answers=answered, children=born, later=later,
        explanations=explanations,
    )  # fmt: skip


def _in_recipe(example: str, target: CommandTarget) -> tuple[RecipePlan, dict[str, Any]]:
    recipe_plan = find_plan(target)
    return recipe_plan, _story(example, recipe_plan)


def _holding(example: str, workspace: Workspace) -> tuple[RecipePlan, dict[str, Any]]:
    """The one recipe here whose data sets hold the row, and the row's story in the first of them."""
    nearby = workspace.list_recipes()
    if workspace.resolve("recipe.yaml").is_file() or len(nearby) < 2:
        return _in_recipe(example, CommandTarget(workspace, command=f"lineage {example} --recipe {{}}"))
    found, errors = {}, {}
    for file in nearby:
        try:
            found[file] = _in_recipe(example, CommandTarget(workspace, str(file)))
        except LuthierError as error:
            errors[file] = error
    if len(found) == 1:
        return found.popitem()[1]
    if found:
        hint = f"say which: luthier lineage {example} --recipe {next(iter(found))}"
        what = f"{len(found)} recipes here hold the row {example!r}: {', '.join(map(str, found))}"
        raise UnknownName(what, hint=hint)
    why = "; ".join(f"{file}: {error.message}" for file, error in errors.items())
    hint = f"look in one alone: luthier lineage {example} --recipe {nearby[0]}"
    raise UnknownName(f"none of the {len(nearby)} recipes here holds the row {example!r} ({why})", hint=hint)


def _doubts(artifact: Artifact, example: str) -> Iterator[dict[str, Any]]:
    """Return a validation's findings about the example."""
    if artifact.manifest.makes == "findings":
        for mark in read_flagged_rows(artifact):
            if mark.id == example:
                yield {"finding": mark.finding, "score": mark.score, "note": mark.note}


_UNITS_TOLD = 3
"""Number of strongest units of an explanation that are shown."""


def _explained(artifact: Artifact, example: str) -> Iterator[dict[str, Any]]:
    """Return a step `explain`'s result for the example, by its best method."""
    if artifact.manifest.makes != "explanation":
        return
    best = ExplanationSummary.read(artifact).best
    for record in read_explanations(artifact):
        if record.row == example and record.method == best:
            units = [{"text": unit.text.strip(), "score": unit.score} for unit in record.ranked()[:_UNITS_TOLD]]
            yield {
                "model": record.model, "digest": record.digest, "method": record.method, "target": record.target.text,
                "units": units, "verdict": record.faithfulness.sentence if record.faithfulness else "",
            }  # fmt: skip


def _later(made: list[tuple[str, Artifact]], example: str) -> Iterator[dict[str, Any]]:
    """Return what later data sets did to the example."""
    first = True
    for name, artifact in made:
        try:
            lineage = explain_example(artifact, example)
        except UnknownName:
            continue
        if not first:
            yield {"step": name, **{key: lineage[key] for key in ("split", "dropped", "label", "events")}}
        first = False


def _story(example: str, what: RecipePlan) -> dict[str, Any]:
    missing: UnknownName | None = None
    for planned in what:
        if planned.step.makes != "dataset" or not planned.cached:
            continue
        try:
            return explain_example(what.store.open(planned.digest), example)
        except UnknownName as error:
            missing = error
    where = SourceLocation(file=what.recipe.file)
    if missing is not None:
        raise UnknownName(missing.message, where=where, hint=missing.hint) from missing
    data = [planned.name for planned in what if planned.step.makes == "dataset"]
    if data:
        raise what.not_made(data[0], f"lineage {example} --recipe {{}}", whole=True)
    raise UnknownName("no step of this recipe makes a data set", where=where, hint="name another recipe")


def _learnt(name: str, artifact: Artifact, example: str, workspace: Workspace) -> Iterator[dict[str, Any]]:
    """Return the example's entry in a tuned model's `training_examples.parquet`."""
    import polars as pl

    if not any(entry.path == "training_examples.parquet" for entry in artifact.manifest.files):
        return
    rows = pl.read_parquet(artifact.path("training_examples.parquet")).filter(pl.col("id") == example)
    with workspace.open_ledger() as ledger:
        runs = [run.id for run in ledger.runs_that_used(artifact.digest)]
    for row in rows.iter_rows(named=True):
        counts = {"times": row.get("taught", row["seen"]), "seen": row["seen"], "nothing": row.get("nothing")}
        counts |= {"tokens": row["tokens"], "cut": row["cut"]}
        yield {"step": name, "artifact": artifact.digest, **counts, "runs": runs}
