"""A search space: what `over` means, what it refuses, and that settings make the steps that overrides make."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.auto.search.space import SearchSpace
from luthier.core.errors import RecipeError
from luthier.core.param_space import ParamDistribution
from luthier.core.step import Step
from luthier.data.steps.prepare import Prepare
from luthier.models.describe import ModelDescription, describe_model_folder
from luthier.recipe.schema import Recipe
from luthier.tune.steps.tune import Tune
from tiny_models import tiny_model

RECIPE: dict[str, Any] = {
    "luthier": 1,
    "model": "smollm2-135m-instruct",
    "steps": {
        "first": {
            "kind": "prepare",
            "source": {"kind": "csv", "path": "first.csv", "prompt": "text", "answer": "label"},
            "ops": ["normalize", {"kind": "length", "max": 300}, {"kind": "near_dedup", "threshold": 0.75}],
        },
        "second": {
            "kind": "prepare",
            "source": {"kind": "csv", "path": "second.csv", "prompt": "text", "answer": "label"},
        },
        "more": {"kind": "augment", "data": "first", "augmenters": ["noise", {"kind": "synonyms", "copies": 2}]},
        "data": {"kind": "mix", "data": ["more", "second"], "weights": [2, 1]},
        "tune": {
            "kind": "tune",
            "data": "data",
            "technique": {"kind": "lora", "r": 12},
            "epochs": 3,
            "lr_scheduler": "wsd",
            "optimizer": "adamw",
        },
        "plain": {"kind": "tune", "data": "first"},
        "report": {"kind": "evaluate", "data": "data", "model": "tune", "metrics": ["accuracy"]},
    },
}
OVER: dict[str, Any] = {
    "technique": ["lora", "ia3", {"kind": "prefix", "num_virtual_tokens": 5}, "prompt_search", "plain"],
    "learning_rate": {"low": 1e-4},
    "technique.r": [4, 12],
    "batch_size": [8, 32],
    "warmup_ratio": [0.0, 0.1, 0.9],
    "decay": [0.05, 0.2, 1.0],
    "objective": ["sft", "classify"],
    "optimizer": "auto",
    "max_train_samples": [None, 100, 1000],
    "curriculum": [None, {"by": "tokens", "epochs": 2}],
    "data.weights": "auto",
    "data.repeats": {"low": 1, "high": 4},
    "data.data.more.share": {"high": 0.7},
    "data.data.more.augmenters.noise": [True, False],
    "data.data.more.augmenters.synonyms": "auto",
    "data.data.0.data.ops.length": [True, False],
    "data.data.0.data.ops.length.max": [None, 100],
    "data.data.0.data.ops.quality": [False, True, {"rules": "gopher"}],
    "data.data.0.data.ops.quality.action": ["drop", "flag"],
    "data.data.0.data.ops.near_dedup.threshold": [0.75, 0.9],
    "data.data.second.ops.exact_dedup": [True, False],
}


def read_recipe(folder: Path, *overrides: str) -> Recipe:
    """The recipe from its file, as `luthier run` reads it."""
    file = folder / "recipe.yaml"
    if not file.exists():
        file.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return Recipe.load(file, overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the recipe stands."""
    return tmp_path_factory.mktemp("recipe")


@pytest.fixture(scope="module")
def steps(folder: Path) -> Mapping[str, Step]:
    """The recipe's steps."""
    return read_recipe(folder).steps


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    """A tiny model, described."""
    return describe_model_folder(tiny_model(tmp_path_factory.mktemp("model")))


def build(steps: Mapping[str, Step], over: Mapping[str, Any], model: ModelDescription | None = None) -> SearchSpace:
    """The space of the step `tune`."""
    of = steps["tune"]
    assert isinstance(of, Tune)
    return SearchSpace.build(of, over, steps, model)


def draw_value(distribution: ParamDistribution) -> st.SearchStrategy[Any]:
    """Any value of a distribution."""
    if distribution.values:
        return st.sampled_from(distribution.values)
    if distribution.integer:
        return st.integers(int(distribution.low), int(distribution.high))
    return st.floats(distribution.low, distribution.high)


def test_with_nothing_said_the_parts_say_what_is_tried(steps: Mapping[str, Step]) -> None:
    space = build(steps, {})
    assert {*space.branches} == {"lora"}
    assert {*space.branches["lora"]} == {"learning_rate", "technique.r", "optimizer.weight_decay"}
    assert space.branches["lora"]["technique.r"].values == (8, 12, 16, 32, 64), "its own value is among them"
    assert space.default == {
        "technique": "lora",
        "learning_rate": "auto",
        "technique.r": 12,
        "optimizer.weight_decay": 0.0,
    }
    assert space.apply(space.default) == {"of": steps["tune"]}
    assert space.overrides(space.default) == []


def test_each_technique_is_a_branch_with_what_it_offers(steps: Mapping[str, Step]) -> None:
    branches = build(steps, OVER).branches
    assert [*branches] == ["lora", "ia3", "prefix", "prompt_search", "plain"]
    assert branches["lora"]["technique.r"].values == (4, 12), "narrowed"
    assert branches["ia3"]["learning_rate"] == ParamDistribution(1e-4, 3e-2, log=True), "widened below, as it was above"
    assert "technique.r" not in branches["ia3"]
    assert {"technique.c", "technique.words", "technique.min_df", "max_train_samples", "data.weights"} <= {
        *branches["plain"]
    }
    assert not {"learning_rate", "batch_size", "objective", "curriculum"} & {*branches["plain"]}
    assert branches["lora"]["data.repeats"] == ParamDistribution(1, 4, integer=True), "whole numbers by the field"
    assert branches["lora"]["data.data.more.share"] == ParamDistribution(0.1, 0.7)


def test_only_what_is_named_is_tried(steps: Mapping[str, Step]) -> None:
    assert {*build(steps, {"batch_size": [8, 16]}).branches["lora"]} == {"batch_size"}
    assert build(steps, {"technique": ["lora"], "learning_rate": [1e-3]}).branches["lora"]["learning_rate"].values == (
        1e-3,
    )
    assert {*build(steps, {"objective": ["sft"], "data.data.more": "auto"}).branches["lora"]} == {
        "objective",
        "data.data.more.share",
    }


def test_settings_change_the_steps_that_they_name(steps: Mapping[str, Step]) -> None:
    space = build(steps, OVER)
    made = space.apply(
        {
            "technique": "prefix",
            "learning_rate": 0.01,
            "data.data.0.data.ops.quality": {"rules": "gopher"},
            "data.data.0.data.ops.quality.action": "flag",
            "data.data.0.data.ops.length": False,
            "data.weights": (1.0, 3.0),
        }
    )
    assert {*made} == {"of", "first", "data"}
    of, first = made["of"], made["first"]
    assert isinstance(of, Tune)
    assert isinstance(first, Prepare)
    assert of.technique.settings()["num_virtual_tokens"] == 5
    assert (of.learning_rate, of.epochs) == (0.01, 3.0)
    assert [one.kind for one in first.ops] == ["normalize", "quality", "near_dedup"], "where a proposal would put it"
    assert {**first.ops[1].settings(), "limits": 0, "skip": 0} == {
        "kind": "quality", "rules": "gopher", "action": "flag", "limits": 0, "skip": 0,
    }  # fmt: skip
    assert made["data"].settings()["weights"] == [1.0, 3.0]
    assert steps["first"].settings()["ops"][1]["kind"] == "length", "the recipe's own steps stay"


def test_a_technique_without_a_loop_leaves_the_loop_out(steps: Mapping[str, Step]) -> None:
    space = build(steps, {"technique": ["lora", "plain"], "batch_size": [8, 16]})
    chosen = {"technique": "plain", "technique.c": 3.0, "batch_size": 8}
    of = space.apply(chosen)["of"]
    assert isinstance(of, Tune)
    assert (of.epochs, of.batch_size, of.lr_scheduler) == (1.0, 32, "auto")
    assert space.overrides(chosen) == [
        "steps.tune.technique={kind: plain, c: 3.0}",
        "steps.tune.epochs=1.0",
        'steps.tune.lr_scheduler="auto"',
    ]


def test_what_the_search_knows_of_the_model_is_never_tried(steps: Mapping[str, Step], tiny: ModelDescription) -> None:
    space = build(steps, {"technique.init_lora_weights": ["default", "pissa"], "technique.r": [8, 64]}, tiny)
    assert space.refuses({"technique.init_lora_weights": "default", "technique.r": 64}) == ""
    assert "takes r 64 directions" in space.refuses({"technique.init_lora_weights": "pissa", "technique.r": 64})
    with pytest.raises(RecipeError, match="lora and sft do not go together"):
        space.apply({"technique.init_lora_weights": "pissa", "technique.r": 64})


def test_a_known_model_gives_the_learning_rate_a_number(steps: Mapping[str, Step], tiny: ModelDescription) -> None:
    space = build(steps, {}, tiny)
    rate = space.default["learning_rate"]
    assert isinstance(rate, float)
    of = steps["tune"]
    assert isinstance(of, Tune)
    assert space.apply(space.default) == {"of": of}, "trial 0 is the step itself, so that it is made once"
    assert space.overrides({"learning_rate": math.nextafter(rate, 1)})
    fixed = of.model_copy(update={"learning_rate": 0.02})
    found = SearchSpace.build(fixed, {}, {**steps, "tune": fixed}, tiny)
    assert found.default["learning_rate"] == 0.02
    assert found.branches["lora"]["learning_rate"].high == 0.02
    assert found.apply({"learning_rate": rate})["of"].settings()["learning_rate"] == rate


def test_a_technique_that_cannot_be_had_is_left_out_with_its_reason(steps: Mapping[str, Step]) -> None:
    of = Tune(
        data="data",
        technique="lora",
        objective={"kind": "ppo", "rewards": [{"kind": "regex", "pattern": "yes"}]},
        learning_rate=1e-5,
    )
    space = SearchSpace.build(of, {"technique": ["lora", "ia3"]}, {**steps, "tune": of})
    assert [*space.branches] == ["lora"]
    assert "the critic of ppo is a low-rank adapter" in space.refused["ia3"]
    assert space.to_json()["refused"] == space.refused
    with pytest.raises(RecipeError, match="leaves nothing to try: ia3"):
        SearchSpace.build(of, {"technique": ["ia3"]}, {**steps, "tune": of})
    named = {"technique": ["ia3"], "objective": ["sft", "ppo"]}
    assert [*SearchSpace.build(of, named, steps).branches] == ["ia3"], "with another objective it can"


def test_contradicting_entries_are_one_error(steps: Mapping[str, Step]) -> None:
    with pytest.raises(RecipeError, match=r"no setting is accepted: warmup_ratio and decay are 1\.9"):
        build(steps, {"warmup_ratio": [0.9], "decay": [1.0]})
    assert build(steps, {"lr_scheduler": ["linear", "wsd"], "decay": [0.1, 0.3]}).refuses(
        {"lr_scheduler": "linear", "decay": 0.1}
    )


@pytest.mark.parametrize(
    ("path", "tried", "words", "hint"),
    [
        ('learning_rte', [1], 'is no setting of tune', "'learning_rate'"),
        ('technique.rr', [8], 'is no setting of lora', "'r'"),
        ("technique.c", [1.0], "is no setting of lora", "known"),
        ('technique', ['lor'], "'lora'", ''),
        ("technique", ["lora", {"kind": "lora", "r": 4}], "names lora twice", "keep one"),
        ("technique", [], "expects a list", "[lora, plain]"),
        ("batch_size", [], "empty list", "values"),
        ("batch_size", 8, "expects a list of values", "[8]"),
        ("batch_size", [8, 8], "stands twice", "list of values"),
        ("batch_size", [0], "does not take 0", ""),
        ("batch_size", {"low": 8}, "wants a number as `high`", "high: 8"),
        ('batch_size', {'low': 8, 'hihg': 16}, "no bound 'hihg'", "'high'"),
        ("batch_size", {"low": 16, "high": 8}, "nothing between", "list"),
        ('lr_scheduler', ['cosin'], "does not take 'cosin'", ''),
        ("ema", "auto", "has no range of its own", "low"),
        ("model", [1], "is the step of a model", "data sets"),
        ("data", [1], "is a whole step", "auto"),
        ("data.data", [1], "leads to several data sets", "name one"),
        ("data.data.more", [1], "is a whole step", "auto"),
        ('IN.ops.qualty', [True], 'names no operator', "'quality'"),
        ("IN.ops.quality", [1], "expects true, false or settings", ""),
        ("IN.ops.quality", {"low": 1, "high": 2}, "no bounds", "true, false"),
        ("IN.ops.quality.action", ["drop"], "not there", "quality: ["),
        ("IN.ops.normalize", "auto", "no search space", "what is to be tried"),
        ("IN.ops.9.max", [1], "part 9 of 3", ""),
        ('IN.ops.length.mx', [1], 'is no setting of length', "'max'"),
        ("IN.max_rows", [5], "is no setting of prepare", ""),
        # what decides who is held out, or is not for a score to decide
        ("IN.split", [{"test": 0.2}], "is not searched", "search ops"),
        ("IN.split.test", [0.2], "which are held out", "max_train_samples"),
        ("IN.source", [1], "is not searched", "search ops"),
        ("IN.seed", [1], "is no setting", ""),
        ("IN.task", ["text"], "is not searched", "search ops"),
        ("IN.ops.decontaminate", [True], "keeps held-out rows out", ""),
        ("IN.ops.pii", [True], "private", ""),
        ("IN.ops", [["normalize"]], "is a list of parts", "IN.ops.quality"),
        ("validation", [None], "held out", "leave it out"),
        ("validation.rows", [0.1], "held out", "leave it out"),
        ("save_steps", [5], "changes nothing", "leave it out"),
        ("resume_from", ["x"], "begins at the base model", "leave it out"),
        ("kind", ["tune"], "stays what it is", "leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_said_with_its_place(
    steps: Mapping[str, Step], path: str, tried: Any, words: str, hint: str
) -> None:
    path = path.replace("IN", "data.data.0.data")
    with pytest.raises(RecipeError) as refused:
        build(steps, {path: tried})
    assert refused.value.where.field == f"over.{path}"
    assert words in refused.value.message
    assert hint.replace("IN", "data.data.0.data") in refused.value.hint


def test_what_no_branch_can_use_is_refused(steps: Mapping[str, Step]) -> None:
    with pytest.raises(RecipeError, match="changes nothing under plain"):
        build(steps, {"technique": ["plain"], "batch_size": [8]})


def test_clusters_that_decide_the_split_are_not_searched(steps: Mapping[str, Step]) -> None:
    clustered = Prepare.model_validate({**RECIPE["steps"]["first"], "split": {"group": "cluster"}})
    with pytest.raises(RecipeError, match="clusters decide which rows are held out"):
        build({**steps, "first": clustered}, {"data.data.0.data.ops.near_dedup.threshold": [0.8, 0.9]})
    assert build({**steps, "first": clustered}, {"data.data.0.data.ops.length.max": [None, 9]}).branches


def test_a_part_that_stands_twice_is_named_by_its_place(steps: Mapping[str, Step]) -> None:
    first = Prepare.model_validate({**RECIPE["steps"]["first"], "ops": [{"kind": "length", "max": 9}, "length"]})
    twice = {**steps, "first": first}
    with pytest.raises(RecipeError, match="may mean 2 parts") as refused:
        build(twice, {"data.data.0.data.ops.length.max": [5, 9]})
    assert "its place: 0, 1" in refused.value.hint
    made = build(twice, {"data.data.0.data.ops.0.max": [5, 9]}).apply({"data.data.0.data.ops.0.max": 5})["first"]
    assert [one["max"] for one in made.settings()["ops"]] == [5, None]


def test_unknown_settings_of_advice_are_refused(steps: Mapping[str, Step]) -> None:
    space = build(steps, {})
    assert "did you mean 'learning_rate'" in space.refuses({"learning_rte": 1})
    assert "is not searched" in space.refuses({"technique": "plain"})
    assert space.refuses({"epochs": 2}) == "", "advice may set what the search does not turn"


def test_it_is_written_as_json(steps: Mapping[str, Step]) -> None:
    space = build(steps, OVER)
    written = space.to_json()
    assert json.loads(json.dumps(written)) == written
    assert written["branches"]["lora"]["technique.r"] == {"values": [4, 12]}
    assert written["default"]["data.weights"] == [2.0, 1.0]
    assert written == build(steps, OVER).to_json()


@pytest.fixture(scope="module")
def wide(steps: Mapping[str, Step]) -> SearchSpace:
    """Settings of the step itself and of all that its data come from."""
    return build(steps, OVER)


@given(st.data())
@settings(max_examples=25)
def test_every_setting_is_applied_or_refused_with_a_reason(
    folder: Path, wide: SearchSpace, data: st.DataObject
) -> None:
    space, steps = wide, wide.steps
    kind = data.draw(st.sampled_from([*space.branches]))
    chosen = {"technique": kind} | {
        path: data.draw(draw_value(distribution), label=path) for path, distribution in space.branches[kind].items()
    }
    why = space.refuses(chosen)
    if why:
        assert chosen.get("warmup_ratio") == 0.9 or chosen.get("decay") == 1.0, why
        with pytest.raises(RecipeError, match=r"."):
            space.apply(chosen)
        return
    made = space.apply(chosen)
    recipe = read_recipe(folder, *space.overrides(chosen))
    for name, step in steps.items():
        applied = made.get("of" if name == "tune" else name, step)
        told = recipe.steps[name].recipe_digest({}, {}, 0)
        assert told == applied.recipe_digest({}, {}, 0), "the same step by overrides"


def test_overrides_are_taken_by_a_recipe_in_memory(folder: Path, steps: Mapping[str, Step]) -> None:
    space = build(steps, OVER)
    chosen = {"technique": "lora", "technique.r": 4, "learning_rate": 1e-4, "data.data.more.share": 0.25}
    values = dict(one.split("=", 1) for one in space.overrides(chosen))
    assert values == {
        "steps.tune.technique.r": "4",
        "steps.tune.learning_rate": "0.0001",
        "steps.more.share": "0.25",
    }
    found = read_recipe(folder).with_overrides({path: yaml.safe_load(text) for path, text in values.items()})
    assert found.steps["tune"] == space.apply(chosen)["of"]


def test_what_differs_only_in_settings_without_effect_is_one_training(steps: Mapping[str, Step]) -> None:
    quality = "data.data.0.data.ops.quality"
    over = {"technique": ["lora", "plain"], "technique.r": [4, 12], quality: [False, True]}
    space = build(steps, {**over, f"{quality}.action": ["drop", "flag"]})
    off, on = {"technique": "lora", quality: False}, {"technique": "lora", quality: True}
    dropped, flagged = ({**one, f"{quality}.action": action} for one, action in ((off, "drop"), (off, "flag")))
    assert space.identify(dropped) == space.identify(flagged) == space.identify(space.default)
    assert space.identify({**on, f"{quality}.action": "drop"}) != space.identify({**on, f"{quality}.action": "flag"})
    assert space.identify({"technique": "lora", "technique.r": 4}) != space.identify({"technique": "lora"})
    assert space.identify({"technique": "plain", "batch_size": 8}) == space.identify({"technique": "plain"})
