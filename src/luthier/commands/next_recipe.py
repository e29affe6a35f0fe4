"""Write the recipe of the next retraining round from production traffic.

The new recipe keeps the steps that made the served model, under names with the round's number; the store has their
artifacts. It mixes the data set with the feedback since the release. It repeats every step that depends on the data:
the training (from the served model or from the model that this one was trained from), the evaluation (paired with the
served model), the gate and the monitor.

Failures that reviewers corrected can be held out as a standing test: no round trains on them, each is evaluated on them
apart from the other held-out rows, and a gate asks that the new model does better on them than the served one.

The module also finds the models that answered the requests of a traffic folder, and the recipes that made them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from luthier.artifacts.dataset import DatasetSummary
from luthier.auto.steps.search import ModelSearch
from luthier.commands.release import ReleasedRecipe, find_live_start_time
from luthier.core.component import components_by_kind
from luthier.core.errors import (
    DataError,
    InputError,
    LuthierError,
    RecipeError,
    SourceLocation,
    UnknownName,
    did_you_mean,
)
from luthier.core.events import format_counted_noun
from luthier.core.files import write_atomically
from luthier.data.row import SourceRecord
from luthier.data.sources.traces import TraceOutput, Traces
from luthier.data.steps.prepare import Prepare
from luthier.eval.baseline import Baseline
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.steps.gate import Gate
from luthier.recipe.planner import RecipePlan, build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import STORE, Workspace, list_store_recipes
from luthier.recipe.yaml import parse_yaml
from luthier.traces import releases
from luthier.traces.releases import Release
from luthier.traces.retention import has_traffic
from luthier.tune.steps.tune import Tune

HELD_OUT = 0.2
"""Held-out share of the feedback, where the recipe holds out a number of rows."""
FEWEST_TESTED = 10
"""Minimum rows of a standing test for a gate: fewer cannot distinguish two models."""
STANDING = "validation"
"""The split of the standing test, which nothing else is held out in."""
FEWEST_APART = 20
"""Rows (those of one user count once) from which some are held out: of fewer, the share that is drawn may be all."""
_SAID: dict[TraceOutput, str | None] = {
    "labels": None,
    "pairs": None,
    "verdicts": None,
    "chat": "(rating > 0 or correction is not missing)",
}
"""Which requests are learnt from: where answers are texts, those alone that people liked or mended."""
_BY_OBJECTIVE: Mapping[str, TraceOutput] = {"dpo": "pairs", "reward": "pairs", "kto": "verdicts"}
NEW_CLASSES = "new to the data, right or misspelt"
_BASE, _AGAINST = re.compile(r"\bbase\b"), re.compile(r"\bagainst\b")
_ROUND = re.compile(r"(.+?)(?:-(\d+))?")


class NumberedRecipeName(NamedTuple):
    """The name and number of a recipe in a series: `desk` is the first, `desk-2` the second."""

    root: str
    number: int

    @classmethod
    def of(cls, name: str) -> NumberedRecipeName:
        """By a recipe's name."""
        match = _ROUND.fullmatch(name)
        assert match is not None, "a recipe has a name"
        return cls(match[1], int(match[2] or 1))

    def after(self, folder: Path) -> str:
        """The first name after it that no file here has."""
        number = self.number + 1
        while any((folder / f"{self.root}-{number}{ending}").exists() for ending in (".yaml", ".jsonl")):
            number += 1
        return f"{self.root}-{number}"


class NextRecipe(NamedTuple):
    """A recipe that was written."""

    path: Path
    rows: int
    """Number of rows from the feedback."""
    strange: list[str]
    """Classes that people named and the data had not, each with its rows and the nearest that it had."""
    kept_rows: int
    """Number of rows of the served model's data set, which are kept."""
    goes_on: bool
    """Whether training starts from the served model."""
    standing: int = 0
    """Number of rows held out as a standing test."""


def write_next_recipe_files(
    name: str,
    released: ReleasedRecipe,
    traffic: Path,
    until: datetime,
    *,
    where: str | None = None,
    from_model: bool = False,
    held_out: Collection[str] = (),
) -> NextRecipe:
    """Write `NAME.jsonl`, what people said before a moment, and `NAME.yaml`, which learns from it, beside the recipe of
    the served model.

    `where` chooses among the requests. With `from_model`, tuning starts from the served model where its technique can
    be merged into weights; otherwise from what that model was tuned from. `held_out` are ids of requests that are a
    standing test (`NAME-failures.jsonl`) and are not trained on.
    """
    recipe_dir = released.recipe.recipe_dir
    path, feedback_file = recipe_dir / f"{name}.yaml", recipe_dir / f"{name}.jsonl"
    if path.exists():
        raise InputError(
            "there is a recipe already; it was not touched",
            where=SourceLocation(file=str(path)),
            hint="take another name",
        )
    training_set = _Learnt.of(released.plan, released.step)
    every = _read_said(traffic, training_set.makes, released, until, where)
    rows, tested = _set_apart(every, frozenset(held_out), training_set.makes)
    _write_rows(feedback_file, rows)
    if tested:
        _write_rows(recipe_dir / f"{name}{_FAILURES}", tested)
    strange = _strange((row["label"] for row in rows), training_set.classes) if training_set.makes == "labels" else []
    goes_on = from_model and _can_be_tuned_on(released)
    following = _next(released, training_set, name, rows, from_model=goes_on, tested=len(tested))
    recipe_data = json.loads(json.dumps(following, default=str))  # YAML marks what is the same object
    text = yaml.safe_dump(recipe_data, sort_keys=False, allow_unicode=True, width=110)
    head = (
        f"{_schema(released.recipe)}# After {Path(released.recipe.file).name}:{released.step} "
        f"({released.digest[:12]}), which answered as {released.alias}:\n"
        f"# its data, and {len(rows)} rows of what people said before {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.\n"
    )
    if tested:
        head += f"# {len(tested)} rows that reviewers corrected are a standing test: no round trains on them.\n"
    if strange:
        head += f"# {NEW_CLASSES}: {', '.join(strange)}.\n"
    write_atomically(path, (head + text).encode())
    return NextRecipe(path, len(rows), strange, sum(training_set.rows.values()), goes_on, len(tested))


def _can_be_tuned_on(released: ReleasedRecipe) -> bool:
    """Whether another training can start from a model: its weights are whole or can be made so, and it has no head of
    classes, to which none could be added."""
    step = released.recipe.steps[released.step]
    if not isinstance(step, Tune):
        return False
    return step.technique.merges(None) == "plain" and not step.objective.wants_head()


def _strange(named: Iterable[str], known: list[str]) -> list[str]:
    """Classes that are not among the known ones."""
    counts = Counter(entry for entry in named if entry not in known)
    return [
        f"{entry!r} ({format_counted_noun(number, 'row')}; {did_you_mean(entry, known)})"
        for entry, number in counts.items()
    ]


def _schema(recipe: Recipe) -> str:
    """Where editors find the schema of recipes, as the recipe before says it."""
    first, _, _ = recipe.text.partition("\n")
    return f"{first}\n" if first.startswith("# yaml-language-server") else ""


class _Learnt(NamedTuple):
    """What a model was trained on."""

    data: str
    """The step that made its data set."""
    makes: TraceOutput
    """What traffic must become to teach the same."""
    classes: list[str]
    """Classes of that data set; empty for free text."""
    rows: Mapping[str, int]
    """Its rows, by split."""

    @classmethod
    def of(cls, what: RecipePlan, model: str) -> _Learnt:
        """By the nearest step that tunes; `RecipeError` where nothing was tuned."""
        steps = what.recipe.all_steps()
        for name in [model, *_before(what.recipe, [model])]:
            data = what.recipe.references(steps[name]).get("data")
            if steps[name].makes == "model" and data is not None:
                kind = getattr(getattr(steps[name], "objective", None), "kind", "")
                dataset = DatasetSummary.read(what.artifact(data))
                makes: TraceOutput = "labels" if dataset.task == "label" else "chat"
                return cls(data, _BY_OBJECTIVE.get(kind, makes), dataset.labels, dataset.rows)
        hint = "release a model that a step `tune` made of data"
        raise RecipeError(f"{model} learnt from no data", where=SourceLocation(file=what.recipe.file), hint=hint)


def _before(recipe: Recipe, names: list[str]) -> list[str]:
    """All steps that some steps rest on, the nearest first."""
    steps, found = recipe.all_steps(), list[str]()
    waiting = list(names)
    while waiting:
        for other in recipe.references(steps[waiting.pop(0)]).values():
            if other not in found and other in recipe.steps:
                found.append(other)
                waiting.append(other)
    return found


def _read_said(
    traffic: Path, makes: TraceOutput, released: ReleasedRecipe, until: datetime, where: str | None
) -> list[dict[str, Any]]:
    """The rows that people's words of a name's answers come to."""
    means = ", ".join(f'"{digest}"' for digest in sorted(released.ever))
    conditions = [f'(model = "{released.alias}" or release in ({means}))', _SAID[makes], where and f"({where})"]
    source = Traces(
        path=str(traffic.absolute()), makes=makes, where=" and ".join(filter(None, conditions)), until=until
    )
    found = [entry.values for entry in source.read(traffic, lambda text: None) if isinstance(entry, SourceRecord)]
    if not found:
        hint = "labels, corrections and ratings come by POST /v1/feedback, or `luthier feedback ID`"
        if recipes := _recipes_with_traffic(traffic):
            hint += f"; other traffic is kept beside {', '.join(recipes)}: `--base-recipe {recipes[0]}` reads it"
        raise DataError(
            f"people said nothing of {released.alias} that can be learnt from{' (--where)' if where else ''}",
            where=SourceLocation(file=str(traffic)),
            hint=hint,
        )
    return found


def _recipes_with_traffic(traffic: Path) -> list[str]:
    """The recipes below the folder of this traffic that have traffic of their own."""
    if traffic.parent.name != STORE:
        return []
    here = Workspace.open(traffic.parent.parent)
    return [
        str(here.shorten(path))
        for path in here.list_recipes()
        if has_traffic(path.parent / STORE / traffic.name) and path.parent != here.folder
    ]


def _set_apart(
    rows: list[dict[str, Any]], held_out: frozenset[str], makes: TraceOutput
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows to train on, and those of the standing test; all are trained on where none would be left."""
    tested = [] if makes == "verdicts" else [row for row in rows if row["trace"] in held_out]
    if not tested or len(tested) == len(rows):
        return rows, []
    return [row for row in rows if row["trace"] not in held_out], tested


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as a file that stays when the traffic is gone."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _needed(recipe_data: dict[str, Any], ends: list[str], workspace: Workspace) -> dict[str, Any]:
    """A recipe without the steps on which none of some others rests."""
    recipe = Recipe.of(parse_yaml(yaml.safe_dump(recipe_data), "the next recipe"), workspace)
    needed = {*ends, *_before(recipe, ends)}
    return {**recipe_data, "steps": {name: step for name, step in recipe_data["steps"].items() if name in needed}}


def _next(
    released: ReleasedRecipe,
    training_set: _Learnt,
    name: str,
    rows: list[dict[str, Any]],
    *,
    from_model: bool,
    tested: int,
) -> dict[str, Any]:
    """The next recipe as plain data."""
    recipe = released.recipe
    written: dict[str, Any] = parse_yaml(recipe.text, recipe.file).data
    old = [released.step, *_before(recipe, [released.step])]
    data_sets = {
        training_set.data,
        *(entry for entry in _before(recipe, [training_set.data]) if recipe.steps[entry].makes == "dataset"),
    }
    fresh = [entry for entry in recipe.steps if training_set.data in _before(recipe, [entry])]
    further = [entry for entry in _before(recipe, fresh) if entry not in fresh]
    again = [entry for entry in (*fresh, training_set.data) if entry in old]
    number = _free_number(recipe, again, NumberedRecipeName.of(recipe.name).number)
    was = {entry: f"{entry}-{number}" for entry in again}
    round_number = _free_number(recipe, ["said", "failures"], max(NumberedRecipeName.of(name).number, number))
    feedback_step, failures_step = f"said-{round_number}", f"failures-{round_number}"

    def kept(one: str) -> dict[str, Any]:
        return _renamed(recipe, one, written["steps"][one], was)

    def renewed(one: str) -> dict[str, Any]:
        step = _renamed(recipe, one, written["steps"][one], dict.fromkeys(data_sets, training_set.data))
        if from_model and one == released.step:
            step = {**step, "model": was[released.step]}
        if isinstance(recipe.steps[one], ModelSearch):
            step = _search_behind_mix(step)
        return _held_against(step, recipe, recipe.steps[one], released.step, was[released.step])

    steps = {was.get(entry, entry): kept(entry) for entry in recipe.order() if entry in {*old, *further}}
    steps[feedback_step] = _said(recipe, training_set, written, f"{name}.jsonl", rows)
    mixed = [was[training_set.data], feedback_step]
    if tested:
        steps[failures_step] = _standing_test(steps[feedback_step], f"{name}{_FAILURES}", recipe)
        mixed.append(failures_step)
    steps[training_set.data] = {"kind": "mix", "data": mixed}
    again_steps = {entry: renewed(entry) for entry in fresh}
    tests = _tests_of(again_steps, recipe, released.step, tested) if tested and not _uses_standing(recipe) else {}
    whole = {**written, "name": name, "steps": steps | again_steps | tests}
    fresh = [*fresh, *tests]
    below = _before(recipe, [released.step]) if from_model else []  # trainings that the served model has behind it
    return _needed(whole, [entry for entry in fresh if entry not in below], recipe.workspace)


def _search_behind_mix(written: dict[str, Any]) -> dict[str, Any]:
    """A search whose paths into the data set lead to the part of the mix that was the whole data set before."""

    def lead_into_mix(values: Mapping[str, Any]) -> dict[str, Any]:
        return {re.sub(r"^data\.", "data.data.0.", path): value for path, value in values.items()}

    over, first = written.get("over"), written.get("first")
    return {
        **written,
        **({"over": lead_into_mix(over)} if over else {}),
        **({"first": [lead_into_mix(settings) for settings in first]} if first else {}),
    }


_FAILURES = "-failures.jsonl"
_METRIC = re.compile(r"\s*([a-zA-Z]\w*)")


def _uses_standing(recipe: Recipe) -> bool:
    """Whether some step holds rows out in that split already, or reads it: those of the first round do for all."""
    steps = recipe.all_steps().values()
    used = (isinstance(step, Prepare) and step.split.validation for step in steps)
    read = (isinstance(step, Evaluate) and step.split == STANDING for step in steps)
    return any((*used, *read, *(isinstance(step, Tune) and step.validation is not None for step in steps)))


def _standing_test(feedback: Mapping[str, Any], file: str, recipe: Recipe) -> dict[str, Any]:
    """Failures, prepared as what else people said, and all held out: apart where that split is free, or reads them."""
    steps = recipe.all_steps().values()
    is_taken = any(
        (isinstance(step, Prepare) and step.split.validation and step.split.train != 0)
        or (isinstance(step, Tune) and step.validation is not None)
        for step in steps
    )
    split = {"test": 1_000_000} if is_taken else {"test": 0, STANDING: 1_000_000}
    return {**feedback, "source": {**feedback["source"], "path": file}, "split": {**split, "train": 0}}


def _tests_of(steps: Mapping[str, Any], recipe: Recipe, model: str, rows: int) -> dict[str, Any]:
    """The evaluation of a model on the standing test, and what a gate asks of it; nothing where none is evaluated."""
    evaluations = {name: recipe.steps[name] for name in steps if isinstance(recipe.steps[name], Evaluate)}
    name = next((name for name, step in evaluations.items() if getattr(step, "model", None) == model), None)
    if name is None:
        return {}
    report = {**steps[name], "split": STANDING, "baselines": [], "tasks": [], "probes": []}
    found: dict[str, Any] = {"failures-report": report}
    rules = [rule for step in steps.values() for rule in step.get("rules", ()) if step.get("evaluation") == name]
    metrics = [metric if isinstance(metric, str) else metric["kind"] for metric in steps[name].get("metrics", ())]
    first = next((match[1] for rule in rules if (match := _METRIC.match(rule))), None) or next(iter(metrics), None)
    if rows >= FEWEST_TESTED and first is not None:
        found["failures-gate"] = {"kind": "gate", "evaluation": "failures-report", "rules": [f"{first} > against"]}
    return found


def _free_number(recipe: Recipe, names: list[str], least: int) -> int:
    """The first number from `least` on that no step of these names has: `tune-2` is the second round's model."""
    number = least
    while any(f"{name}-{number}" in recipe.steps for name in names):
        number += 1
    return number


def _renamed(recipe: Recipe, name: str, written: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A step as it was written, with other names for the steps that it reads."""
    found = dict(written)
    for field, other in recipe.references(recipe.steps[name]).items():
        setting, _, at = field.partition(".")
        if setting in found and other in names:
            if at:
                found[setting] = [
                    names[other] if number == int(at) else entry for number, entry in enumerate(found[setting])
                ]
            else:
                found[setting] = names[other]
    return found


def _held_against(written: dict[str, Any], recipe: Recipe, step: Any, model: str, released: str) -> dict[str, Any]:
    """An evaluation holds its model against the released one, and a gate asks for more than that one does."""
    if isinstance(step, Evaluate) and step.model == model:
        return {**written, "compare_with": released, "compare_base": written.get("compare_base", False)}
    if isinstance(step, Gate):
        rules = [_BASE.sub("against", rule) for rule in step.rules]
        measured = recipe.steps.get(step.evaluation or "")
        is_compared = isinstance(measured, Evaluate) and measured.model == model
        return {**written, "rules": [*rules, *_stricter_rules(rules)] if is_compared else rules}
    return written


def _stricter_rules(rules: Sequence[str]) -> list[str]:
    """Rules that ask for more than the released model where the others ask for more than a plain baseline alone.

    A recipe whose technique has no base, such as `plain`, asks for more than `majority`: the next model passes that
    although it is worse than the released one.
    """
    if any(_AGAINST.search(rule) for rule in rules):
        return []
    baselines = re.compile(rf"\b({'|'.join(map(re.escape, components_by_kind(Baseline)))})\b")
    return list(dict.fromkeys(baselines.sub("against", rule) for rule in rules if baselines.search(rule)))


def _said(
    recipe: Recipe, training_set: _Learnt, written: Mapping[str, Any], file: str, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """What people said, prepared as the first data were. Few rows may be of one class, and none of them is held out."""
    chain = [training_set.data, *_before(recipe, [training_set.data])]
    first = next(
        (entry for entry in recipe.order() if entry in chain and isinstance(recipe.steps[entry], Prepare)), None
    )
    like: dict[str, Any] = {"kind": "prepare"} if first is None else dict(written["steps"][first])
    columns = {"prompt": "text", "answer": "label"} if training_set.makes == "labels" else {}
    system = {name: value for name, value in like.get("source", {}).items() if name == "system"}
    held_out = like.get("split", {}).get("test")
    share = held_out if isinstance(held_out, float) and held_out else HELD_OUT
    return {
        **like,
        "source": {"kind": "jsonl", "path": file, **columns, **system, "id": "trace", "group": "user"},
        "split": {"test": share if _apart(rows) >= FEWEST_APART else 0},
        **({"task": "label", "min_classes": 1} if training_set.makes == "labels" else {}),
    }


def _apart(rows: list[dict[str, Any]]) -> int:
    """How many parts the split may tear rows into: those of one user stay together."""
    users = [row.get("user") or "" for row in rows]
    return len({*users} - {""}) + users.count("")


class ServedModel(NamedTuple):
    """A model that answered requests under one name."""

    name: str
    """Public name: `support:tune`, `support@prod`."""
    digest: str
    """Of the model that a released name means now; of any other name, of the model that answered last."""
    requests: int
    last: datetime
    """Time of the last request."""
    made: ReleasedRecipe | None
    """The recipe and step that make it; None where no recipe here does."""
    is_current: bool
    """Whether that step of the current recipe is the model that answered."""

    def line(self) -> str:
        """The model in a list."""
        return f"{self.name} ({self.digest[:12]}; {self.requests:,} requests, the last {self.last:%Y-%m-%d %H:%M} UTC)"


class _Asked(NamedTuple):
    name: str
    digest: str
    requests: int
    last: datetime


def list_served_models(workspace: Workspace, traffic: Path) -> list[ServedModel]:
    """All of them that have a digest, the one with the most recent request first."""
    plans = list(_plans(workspace, traffic))
    return [_found(workspace, request, plans) for request in _asked(traffic)]


def _asked(traffic: Path) -> list[_Asked]:
    """Names that were asked for answers, each with the digest of the model that answered last; shadows and canaries
    aside."""
    import polars as pl

    from luthier.traces.store import scan_table

    answered = (pl.col("variant") == "stable") & (pl.col("status") < 400) & (pl.col("operation") != "embedding")
    rows = (
        scan_table(traffic, "traces")
        .filter(answered & (pl.col("release") != ""))
        .sort("timestamp")
        .group_by("model")
        .agg(pl.col("release").last(), pl.len().alias("requests"), pl.col("timestamp").last())
        .sort("timestamp", descending=True)
        .select("model", "release", "requests", "timestamp")
    )
    return [_Asked(*row) for row in rows.collect().iter_rows()]


def _plans(workspace: Workspace, traffic: Path) -> Iterator[RecipePlan]:
    """What the recipes beside the traffic and here would make; those with the fewest steps first, since a next recipe
    holds the steps of the one before it."""
    folder = workspace.with_folder(traffic.parent.parent) if traffic.parent.name == STORE else workspace.find_meant()
    files = (*list_store_recipes(folder.open_store()), *workspace.list_recipes())
    recipes = list[Recipe]()
    for path in dict.fromkeys(path.resolve() for path in files):
        try:
            recipes.append(Recipe.load(workspace.format_path(path), (), workspace))
        except LuthierError:
            continue  # a recipe that cannot be read made nothing that is known
    for recipe in sorted(recipes, key=lambda entry: len(entry.steps)):
        try:
            yield build_recipe_plan(recipe, costs_of=())
        except LuthierError:
            continue


def _found(workspace: Workspace, usage: _Asked, plans: list[RecipePlan]) -> ServedModel:
    """The recipe that makes a model: by its digest, else by what it was called."""
    changes = _changes(workspace, usage.name)
    digest = changes[0].stable.digest if changes else usage.digest
    ever = frozenset(model.digest for change in changes for model in change.models if model.digest) or {digest}
    words = {usage.name, *([changes[0].stable.word] if changes else [])}
    tuned = [(what, step) for what in plans for step in what if step.step.makes == "model" and step.step.kind != "base"]
    exact = [entry for entry in tuned if entry[1].digest == digest]
    called = [entry for entry in tuned if words & set(_words(entry[0].recipe, entry[1].name))]
    made = None
    for what, step in (exact or called)[:1]:
        since = find_live_start_time(changes) if changes else None
        made = ReleasedRecipe(
            alias=usage.name, plan=what, step=step.name, digest=step.digest, since=since, ever=frozenset(ever)
        )
    return ServedModel(usage.name, digest, usage.requests, usage.last, made, bool(exact))


def _words(recipe: Recipe, step: str) -> tuple[str, str]:
    """Return the names under which a step may be served or released."""
    return f"{recipe.name}:{step}", f"{recipe.file}:{step}"


def _changes(workspace: Workspace, name: str) -> list[Release]:
    """The history of a released name; empty for any other."""
    if "@" not in name:
        return []
    with workspace.find_alias(name).open_ledger() as ledger:
        try:
            return releases.history(ledger, name)
        except UnknownName:
            return []
