"""An example's whole story: where it came from, what was done to it, who learnt it, how models answered it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.counted import counted
from luthier.core.errors import LuthierError, UnknownName, Where
from luthier.core.ledger import Ledger, ledger_url
from luthier.core.store import Store
from luthier.data.history.story import children, story
from luthier.eval.story import answers
from luthier.flow.locate import Target, find_plan
from luthier.flow.nearby import recipes_here
from luthier.flow.plan import Plan
from luthier.text.dropped import place_in_file
from luthier.text.findings import read_marks
from luthier.text.pii.keeper import TAG


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The story of one example in one recipe."""

    story: dict[str, Any]
    """Origin, edits, split or reason of being dropped (see `luthier.data.history.story`)."""
    learnt: list[dict[str, Any]]
    """Models that were tuned on it: step, artifact, how often the saved weights and the whole training saw it, why it
    was not learnt, tokens, runs."""
    answers: list[dict[str, Any]]
    """How each model of each evaluation answered it."""
    children: list[dict[str, Any]]
    """Rows that were made out of it: step, id, by which augmenter."""
    doubts: list[dict[str, Any]]
    """Findings that name it: step, finding, score, note."""
    later: list[dict[str, Any]]
    """What other data sets of the recipe made of it: step, split, reason of being dropped, edits, label."""

    @property
    def facts(self) -> dict[str, Any]:
        """The story as `trace --json` prints it."""
        rest = {name: getattr(self, name) for name in ("doubts", "later", "children", "learnt", "answers")}
        return {**self.story, **rest}

    def lines(self) -> Iterator[str]:
        """The story for a person."""
        yield from _story_lines(self.story)
        for one in self.doubts:
            yield f"{one['step']}: named by {one['finding']}{': ' if one['note'] else ''}{one['note']}"
        for one in self.later:
            yield from (f"{one['step']}: {line}" for line in _later_lines(one))
        for child in self.children:
            yield f"{child['step']}: {child['by']} made {child['id']} out of it"
        for one in self.learnt:
            yield _learnt_line(one)
            yield f"  in the runs {', '.join(one['runs']) or '(made outside a recorded run)'}"
        for one in self.answers:
            right = {True: "right", False: "wrong", None: ""}[one["correct"]]
            yield f"{one['step']}: {one['model']:<10} answered {one['prediction']!r} {right}".rstrip()


def _learnt_line(told: dict[str, Any]) -> str:
    """How often a model learnt an example, or why it did not, for a person."""
    by = f"{told['step']} ({told['artifact'][:12]})"
    if not told["times"]:
        late = "it was seen after the weights that were saved" if told["seen"] else "its turn never came"
        return f"not learnt by {by}: {told['nothing'] or late}"
    cut = ", cut to fit" if told["cut"] else ""
    return f"learnt by {by}, {counted(told['times'], 'time')}, {counted(told['tokens'], 'token')}{cut}"


def _story_lines(told: dict[str, Any]) -> Iterator[str]:
    """Origin, messages, edits and split of an example, for a person."""
    origin = told["origin"]
    yield f"example {told['id']}, a {told['kind']} example" if told["kind"] else f"example {told['id']}"
    place = place_in_file(origin["file"], origin["line"], origin.get("row"))
    yield f"from {place} ({origin['source']})"
    if made := told["made"]:
        yield f"made by {made['by']} out of {', '.join(made['parents'])}: {'; '.join(made['did'])}"
    for event in told["events"]:
        if event["action"] != "drop" and event["before"] is not None:
            yield f"{event['operator']}: {_edit(event)}"
    if tag := next((found[0] for event in told["events"] if (found := TAG.search(event["before"] or ""))), None):
        yield f"{tag} stands for what was found, which is not kept: the same letters for the same value"
    for operator, columns in told["attributes"].items():
        if noted := [f"{name} {value}" for name, value in columns.items() if value is not None]:
            yield f"{operator}: {', '.join(noted)}"
    for message in told["messages"] or ():
        yield from _turn_lines(message)
    yield from _fate(told)


def _turn_lines(message: dict[str, Any]) -> Iterator[str]:
    """What a turn says, and which tools it calls."""
    calls = message.get("tool_calls") or ()
    if message.get("content") or not calls:
        yield f"{message['role']:<10} {message.get('content', '')!r}"
    yield from (
        f"{message['role']:<10} calls {call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})"
        for call in calls
    )


def _edit(event: dict[str, Any]) -> str:
    place = f"{event['field']}[{event['start']}:{event['end']}]" if event["start"] is not None else event["field"]
    return f"{event['reason']}: {place} {event['before']!r} → {event['after']!r}"


def _later_lines(told: dict[str, Any]) -> Iterator[str]:
    """What a later data set made of an example."""
    yield from (_edit(event) for event in told["events"] if event["action"] == "edit" and event["before"] is not None)
    yield from _fate(told)


def _fate(told: dict[str, Any]) -> Iterator[str]:
    """The split of a row, or why it is in none; a row that came twice may be left out once and stand all the same."""
    if told["dropped"]:
        yield _dropped(told["dropped"])
        return
    yield f"in the split {told['split']}"
    for event in told["events"]:
        if event["action"] == "drop":
            yield f"came once more and was left out then by {event['operator']}: {event['reason']}"


def _dropped(drop: dict[str, Any]) -> str:
    twin = f"; its twin is {drop['twin']}" if drop["twin"] else ""
    alike = f", {drop['similarity']:.0%} alike" if drop["similarity"] is not None else ""
    return f"dropped by {drop['operator']}: {drop['reason']}{twin}{alike}"


def trace_example(example: str, named: Target | Path | None) -> Trace:
    """Find an example by its id (or the beginning of it) in the data sets of a recipe with its overrides, or of a
    run."""
    target = Target.of(named)
    what, found = _holding(example) if target.word is None and not target.overrides else _in_recipe(example, target)
    made = [(planned.name, what.store.open(planned.digest)) for planned in what if planned.cached]
    learnt = [row for name, artifact in made for row in _learnt(name, artifact, found["id"], what.store)]
    answered = [
        {"step": name, **answer.as_json()}
        for name, artifact in made
        if artifact.manifest.makes == "evaluation"
        for answer in answers(artifact, found["id"])
    ]
    doubts = [{"step": name, **mark} for name, artifact in made for mark in _doubts(artifact, found["id"])]
    made = [(name, artifact) for name, artifact in made if artifact.manifest.makes == "dataset"]
    born = [{"step": name, **child} for name, artifact in made for child in children(artifact, found["id"])]
    later = list(_later(made, found["id"]))
    return Trace(story=found, doubts=doubts, learnt=learnt, answers=answered, children=born, later=later)


def _in_recipe(example: str, target: Target) -> tuple[Plan, dict[str, Any]]:
    what = find_plan(target)
    return what, _story(example, what)


def _holding(example: str) -> tuple[Plan, dict[str, Any]]:
    """The one recipe here whose data sets hold the row, and the row's story in the first of them."""
    nearby = recipes_here()
    if Path("recipe.yaml").is_file() or len(nearby) < 2:
        return _in_recipe(example, Target(command=f"trace {example} --recipe {{}}"))
    found, errors = {}, {}
    for file in nearby:
        try:
            found[file] = _in_recipe(example, Target(str(file)))
        except LuthierError as error:
            errors[file] = error
    if len(found) == 1:
        return found.popitem()[1]
    if found:
        remedy = f"say which: luthier trace {example} --recipe {next(iter(found))}"
        what = f"{len(found)} recipes here hold the row {example!r}: {', '.join(map(str, found))}"
        raise UnknownName(what, remedy=remedy)
    why = "; ".join(f"{file}: {error.message}" for file, error in errors.items())
    remedy = f"look in one alone: luthier trace {example} --recipe {nearby[0]}"
    raise UnknownName(f"none of the {len(nearby)} recipes here holds the row {example!r} ({why})", remedy=remedy)


def _doubts(artifact: Artifact, example: str) -> Iterator[dict[str, Any]]:
    """What a validation says of the example."""
    if artifact.manifest.makes == "findings":
        for mark in read_marks(artifact):
            if mark.id == example:
                yield {"finding": mark.finding, "score": mark.score, "note": mark.note}


def _later(made: list[tuple[str, Artifact]], example: str) -> Iterator[dict[str, Any]]:
    """What the data sets behind the first that has the example made of it."""
    first = True
    for name, artifact in made:
        try:
            told = story(artifact, example)
        except UnknownName:
            continue
        if not first:
            yield {"step": name, **{key: told[key] for key in ("split", "dropped", "label", "events")}}
        first = False


def _story(example: str, what: Plan) -> dict[str, Any]:
    missing: UnknownName | None = None
    for planned in what:
        if planned.step.makes != "dataset" or not planned.cached:
            continue
        try:
            return story(what.store.open(planned.digest), example)
        except UnknownName as error:
            missing = error
    where = Where(file=what.recipe.file)
    if missing is not None:
        raise UnknownName(missing.message, where=where, remedy=missing.remedy) from missing
    data = [planned.name for planned in what if planned.step.makes == "dataset"]
    if data:
        raise what.not_made(data[0], f"trace {example} --recipe {{}}", whole=True)
    raise UnknownName("no step of this recipe makes a data set", where=where, remedy="name another recipe")


def _learnt(name: str, artifact: Artifact, example: str, store: Store) -> Iterator[dict[str, Any]]:
    """What a tuned model's `learnt.parquet` says of the example."""
    import polars as pl

    if not any(entry.path == "learnt.parquet" for entry in artifact.manifest.files):
        return
    rows = pl.read_parquet(artifact.path("learnt.parquet")).filter(pl.col("id") == example)
    with Ledger(ledger_url(store.root)) as ledger:
        runs = [run.id for run in ledger.runs_that_used(artifact.digest)]
    for row in rows.iter_rows(named=True):
        seen = {"times": row.get("taught", row["seen"]), "seen": row["seen"], "nothing": row.get("nothing")}
        seen |= {"tokens": row["tokens"], "cut": row["cut"]}
        yield {"step": name, "artifact": artifact.digest, **seen, "runs": runs}
