"""The next recipe: the one that made the served model, over its data and what people said of the traffic since.

What the served model was made of stays in it as it is, under names with the round's number, and is found in the
store. Its data set is mixed with what was said; every step that depends on the data is there once more, over the
mixture: the tuning (of the served model, or of what that was tuned from), the evaluation (held in pairs against the
served model), the gate and the monitor.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from luthier.core.counted import counted
from luthier.core.errors import DataError, InputError, RecipeError, Where, did_you_mean
from luthier.core.files import write_aside
from luthier.data.row import Record
from luthier.data.sources.traces import Makes, Traces
from luthier.data.steps.prepare import Prepare
from luthier.eval.steps.evaluate import Evaluate
from luthier.flow.plan import Plan
from luthier.flow.recipe import Recipe
from luthier.flow.source_text import parse_yaml
from luthier.text.dataset import DatasetSummary
from luthier.tune.steps.tune import Tune

if TYPE_CHECKING:
    from luthier.flow.released import Released

HELD_OUT = 0.2
"""The share of what was said that is held out, where the recipe counts rows instead."""
FEWEST_APART = 20
"""Rows (those of one user count once) from which some are held out: of fewer, the share that is drawn may be all."""
_SAID: dict[Makes, str | None] = {
    "labels": None,
    "pairs": None,
    "verdicts": None,
    "chat": "(rating > 0 or correction is not missing)",
}
"""Which requests are learnt from: where answers are texts, those alone that people liked or mended."""
_BY_OBJECTIVE: Mapping[str, Makes] = {"dpo": "pairs", "reward": "pairs", "kto": "verdicts"}
NEW_CLASSES = "new to the data, right or misspelt"
_BASE = re.compile(r"\bbase\b")
_ROUND = re.compile(r"(.+?)(?:-(\d+))?")


class Round(NamedTuple):
    """Which recipe it is in a row of them: `desk` is the first, `desk-2` the second."""

    root: str
    number: int

    @classmethod
    def of(cls, name: str) -> Round:
        """By a recipe's name."""
        found = _ROUND.fullmatch(name)
        assert found is not None, "a recipe has a name"
        return cls(found[1], int(found[2] or 1))

    def after(self, folder: Path) -> str:
        """The first name after it that no file here has."""
        number = self.number + 1
        while any((folder / f"{self.root}-{number}{ending}").exists() for ending in (".yaml", ".jsonl")):
            number += 1
        return f"{self.root}-{number}"


class Written(NamedTuple):
    """A recipe that was written."""

    path: Path
    rows: int
    """How many rows people's words came to."""
    strange: list[str]
    """Classes that people named and the data had not, each with its rows and the nearest that it had."""
    kept_rows: int
    """How many rows the served model's data set holds, which stay."""
    goes_on: bool
    """Whether tuning starts from the served model."""


def write_next(
    name: str,
    released: Released,
    traffic: Path,
    until: datetime,
    *,
    where: str | None = None,
    from_model: bool = False,
) -> Written:
    """Write `NAME.jsonl`, what people said before a moment, and `NAME.yaml`, which learns from it, beside the recipe of
    the served model.

    `where` chooses among the requests. With `from_model`, tuning starts from the served model where its technique can
    be merged into weights; otherwise from what that model was tuned from.
    """
    base = released.recipe.base
    path, said = base / f"{name}.yaml", base / f"{name}.jsonl"
    if path.exists():
        raise InputError(
            "there is a recipe already; it was not touched", where=Where(file=str(path)), remedy="take another name"
        )
    learnt = _Learnt.of(released.plan, released.step)
    rows = _write_said(said, traffic, learnt.makes, released, until, where)
    strange = _strange((row["label"] for row in rows), learnt.classes) if learnt.makes == "labels" else []
    goes_on = from_model and _can_be_tuned_on(released)
    following = _next(released, learnt, name, rows, from_model=goes_on)
    told = json.loads(json.dumps(following, default=str))  # YAML marks what is the same object
    text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=110)
    head = (
        f"{_schema(released.recipe)}# After {Path(released.recipe.file).name}:{released.step} "
        f"({released.digest[:12]}), which answered as {released.alias}:\n"
        f"# its data, and {len(rows)} rows of what people said before {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.\n"
    )
    if strange:
        head += f"# {NEW_CLASSES}: {', '.join(strange)}.\n"
    write_aside(path, (head + text).encode())
    return Written(path, len(rows), strange, sum(learnt.rows.values()), goes_on)


def _can_be_tuned_on(released: Released) -> bool:
    """Whether another training can start from a model: its weights are whole or can be made so, and it has no head of
    classes, to which none could be added."""
    step = released.recipe.steps[released.step]
    if not isinstance(step, Tune):
        return False
    return step.technique.merges(None) == "plain" and not step.objective.wants_head()


def _strange(named: Iterable[str], known: list[str]) -> list[str]:
    """Classes that are not among the known ones."""
    counts = Counter(one for one in named if one not in known)
    return [f"{one!r} ({counted(number, 'row')}; {did_you_mean(one, known)})" for one, number in counts.items()]


def _schema(recipe: Recipe) -> str:
    """Where editors find the schema of recipes, as the recipe before says it."""
    first, _, _ = recipe.text.partition("\n")
    return f"{first}\n" if first.startswith("# yaml-language-server") else ""


class _Learnt(NamedTuple):
    """What a model was taught."""

    data: str
    """The step that made its data set."""
    makes: Makes
    """What traffic must become to teach the same."""
    classes: list[str]
    """The classes of that data set; none where it learnt texts."""
    rows: Mapping[str, int]
    """Its rows, by split."""

    @classmethod
    def of(cls, what: Plan, model: str) -> _Learnt:
        """By the nearest step that tunes; `RecipeError` where nothing was tuned."""
        steps = what.recipe.all_steps()
        for name in [model, *_before(what.recipe, [model])]:
            data = Recipe.references(steps[name]).get("data")
            if steps[name].makes == "model" and data is not None:
                kind = getattr(getattr(steps[name], "objective", None), "kind", "")
                told = DatasetSummary.read(what.artifact(data))
                makes: Makes = "labels" if told.task == "label" else "chat"
                return cls(data, _BY_OBJECTIVE.get(kind, makes), told.labels, told.rows)
        remedy = "release a model that a step `tune` made of data"
        raise RecipeError(f"{model} learnt from no data", where=Where(file=what.recipe.file), remedy=remedy)


def _before(recipe: Recipe, names: list[str]) -> list[str]:
    """All steps that some steps rest on, the nearest first."""
    steps, found = recipe.all_steps(), list[str]()
    waiting = list(names)
    while waiting:
        for other in Recipe.references(steps[waiting.pop(0)]).values():
            if other not in found and other in recipe.steps:
                found.append(other)
                waiting.append(other)
    return found


def _write_said(
    path: Path, traffic: Path, makes: Makes, released: Released, until: datetime, where: str | None
) -> list[dict[str, Any]]:
    """The rows that people's words of a name's answers come to, as a file that stays when the traffic is gone."""
    means = ", ".join(f'"{digest}"' for digest in sorted(released.ever))
    conditions = [f'(model = "{released.alias}" or release in ({means}))', _SAID[makes], where and f"({where})"]
    source = Traces(path=str(traffic), makes=makes, where=" and ".join(filter(None, conditions)), until=until)
    found = [one.values for one in source.read(Path(), lambda text: None) if isinstance(one, Record)]
    if not found:
        remedy = "labels, corrections and ratings come by POST /v1/feedback, or `luthier feedback ID`"
        raise DataError(
            f"people said nothing of {released.alias} that can be learnt from{' (--where)' if where else ''}",
            where=Where(file=str(traffic)),
            remedy=remedy,
        )
    write_aside(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found).encode())
    return found


def _needed(told: dict[str, Any], ends: list[str], base: Path) -> dict[str, Any]:
    """A recipe without the steps on which none of some others rests."""
    recipe = Recipe.of(parse_yaml(yaml.safe_dump(told), "the next recipe"), base)
    needed = {*ends, *_before(recipe, ends)}
    return {**told, "steps": {name: step for name, step in told["steps"].items() if name in needed}}


def _next(
    released: Released, learnt: _Learnt, name: str, rows: list[dict[str, Any]], *, from_model: bool
) -> dict[str, Any]:
    """The next recipe as plain data."""
    recipe = released.recipe
    written: dict[str, Any] = parse_yaml(recipe.text, recipe.file).data
    old = [released.step, *_before(recipe, [released.step])]
    data_sets = {learnt.data, *(one for one in _before(recipe, [learnt.data]) if recipe.steps[one].makes == "dataset")}
    fresh = [one for one in recipe.steps if learnt.data in _before(recipe, [one])]
    further = [one for one in _before(recipe, fresh) if one not in fresh]
    again = [one for one in (*fresh, learnt.data) if one in old]
    number = _free_number(recipe, again, Round.of(recipe.name).number)
    was = {one: f"{one}-{number}" for one in again}
    said = f"said-{_free_number(recipe, ['said'], max(Round.of(name).number, number))}"

    def kept(one: str) -> dict[str, Any]:
        return _renamed(recipe, one, written["steps"][one], was)

    def renewed(one: str) -> dict[str, Any]:
        step = _renamed(recipe, one, written["steps"][one], dict.fromkeys(data_sets, learnt.data))
        if from_model and one == released.step:
            step = {**step, "model": was[released.step]}
        return _held_against(step, recipe.steps[one], released.step, was[released.step])

    steps = {was.get(one, one): kept(one) for one in recipe.order() if one in {*old, *further}}
    steps[said] = _said(recipe, learnt, written, f"{name}.jsonl", rows)
    steps[learnt.data] = {"kind": "mix", "data": [was[learnt.data], said]}
    whole = {**written, "name": name, "steps": steps | {one: renewed(one) for one in fresh}}
    below = _before(recipe, [released.step]) if from_model else []  # trainings that the served model has behind it
    return _needed(whole, [one for one in fresh if one not in below], recipe.base)


def _free_number(recipe: Recipe, names: list[str], least: int) -> int:
    """The first number from `least` on that no step of these names has: `tune-2` is the second round's model."""
    number = least
    while any(f"{name}-{number}" in recipe.steps for name in names):
        number += 1
    return number


def _renamed(recipe: Recipe, name: str, written: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A step as it was written, with other names for the steps that it reads."""
    found = dict(written)
    for field, other in Recipe.references(recipe.steps[name]).items():
        place, _, at = field.partition(".")
        if place in found and other in names:
            if at:
                found[place] = [names[other] if number == int(at) else one for number, one in enumerate(found[place])]
            else:
                found[place] = names[other]
    return found


def _held_against(written: dict[str, Any], step: Any, model: str, released: str) -> dict[str, Any]:
    """An evaluation holds its model against the released one, and a gate asks for more than that one does."""
    if isinstance(step, Evaluate) and step.model == model:
        return {**written, "against": released, "compare_base": written.get("compare_base", False)}
    if step.makes == "verdict":
        return {**written, "rules": [_BASE.sub("against", rule) for rule in step.rules]}
    return written


def _said(
    recipe: Recipe, learnt: _Learnt, written: Mapping[str, Any], file: str, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """What people said, prepared as the first data were. Few rows may be of one class, and none of them is held out."""
    chain = [learnt.data, *_before(recipe, [learnt.data])]
    first = next((one for one in recipe.order() if one in chain and isinstance(recipe.steps[one], Prepare)), None)
    like: dict[str, Any] = {"kind": "prepare"} if first is None else dict(written["steps"][first])
    columns = {"prompt": "text", "answer": "label"} if learnt.makes == "labels" else {}
    system = {name: value for name, value in like.get("source", {}).items() if name == "system"}
    held_out = like.get("split", {}).get("test")
    share = held_out if isinstance(held_out, float) and held_out else HELD_OUT
    return {
        **like,
        "source": {"kind": "jsonl", "path": file, **columns, **system, "id": "trace", "group": "user"},
        "split": {"test": share if _apart(rows) >= FEWEST_APART else 0},
        **({"task": "label", "min_classes": 1} if learnt.makes == "labels" else {}),
    }


def _apart(rows: list[dict[str, Any]]) -> int:
    """How many parts the split may tear rows into: those of one user stay together."""
    users = [row.get("user") or "" for row in rows]
    return len({*users} - {""}) + users.count("")
