"""Recipes: what they accept, what they refuse and with which words, and what follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.errors import LuthierError
from luthier.recipe.schema import MODEL_STEP, Recipe
from tests.tiny_models import RECIPE, small_recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_recipe(tmp_path).parent


def _load(folder: Path, text: str, *overrides: str) -> Recipe:
    (folder / "other.yaml").write_text(text, encoding="utf-8")
    return Recipe.load(folder / "other.yaml", overrides)


def test_a_recipe_reads_what_was_written(folder: Path) -> None:
    recipe = Recipe.load(folder)
    assert recipe.order() == ["data", MODEL_STEP, "tune", "report", "gate"]
    assert recipe.steps["tune"].model_dump()["technique"]["r"] == 4
    assert recipe.all_steps()[MODEL_STEP].model_dump()["source"]["kind"] == "folder"


def test_overrides_are_checked_by_the_same_schema(folder: Path) -> None:
    recipe = Recipe.load(folder, ["steps.tune.technique.r=32", "seed=9"])
    assert recipe.steps["tune"].model_dump()["technique"]["r"] == 32
    assert recipe.seed == 9
    with pytest.raises(LuthierError, match="technique"):
        Recipe.load(folder, ["steps.tune.technique.r=much"])


def test_overrides_from_python_are_those_of_the_command_line(folder: Path) -> None:
    first = Recipe.load(folder, ["seed=9"])
    changed = first.with_overrides(
        {
            "steps.tune.technique.r": 32,
            "steps.tune.learning_rate": 1e-5,
            "steps.gate.rules": ("accuracy > base",),
            "name": "other",
        }
    )
    texts = ["steps.tune.technique.r=32", "steps.tune.learning_rate=1.0e-05", "steps.gate.rules=[accuracy > base]"]
    assert changed.overrides == ("seed=9", *texts, 'name="other"')
    assert changed == Recipe.load(folder, changed.overrides)
    assert (changed.recipe_dir, changed.file) == (first.recipe_dir, first.file)
    assert changed.with_overrides({"seed": 0, "name": first.name}).seed == 0
    assert first.steps["tune"].model_dump()["technique"]["r"] == 4
    with pytest.raises(LuthierError, match="there is no step 'tun'"):
        first.with_overrides({"steps.tun.technique.r": 3})


def test_a_recipe_made_in_memory_takes_overrides(folder: Path) -> None:
    loaded = Recipe.load(folder)
    made = Recipe.model_validate(loaded.model_dump(mode="json"))
    technique = loaded.steps["tune"].model_copy().technique  # type: ignore[attr-defined]  # a step `tune` has one
    changed = made.with_overrides({"steps.tune.technique": technique, "steps.tune.max_train_samples": None})
    assert changed.steps == made.steps
    assert changed.overrides[1] == "steps.tune.max_train_samples=null"


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ("steps.tun.technique.r=3", "steps.tun.technique.r=3", "there is no step 'tun'; did you mean 'tune'?"),
        ("steps.data.split.test=1.5", "steps.data.split.test", "a share is below 1"),
        ("steps.tune.technique.kind=ia3", "steps.tune.technique.r", "`steps.tune.technique=ia3` replaces the part"),
        ("steps.report.metric=accuracy", "steps.report.metric", "did you mean 'metrics'"),
        ("steps.data.columns=[x]", "steps.data.columns", "known: "),
        ("steps.tune.beta=1", "steps.tune.beta", "where that is cpo or distil or dpo or others: write"),
        ("steps.tune.bits=8", "steps.tune.bits", "where that is qlora: write `technique: {kind: qlora, bits: …}`"),
        ("steps.report.metrics=[acc]", "steps.report.metrics.0", "did you mean 'accuracy' or"),
    ],
)
def test_a_wrong_override_is_blamed_and_mended_itself(folder: Path, given: str, field: str, words: str) -> None:
    with pytest.raises(LuthierError) as caught:
        Recipe.load(folder, [given])
    assert caught.value.where.field == field
    assert words in f"{caught.value.message}; {caught.value.hint}"
    if not given.endswith("kind=ia3"):  # what does not fit there any more stands in the file
        assert caught.value.where.file == "command line"


def test_a_step_is_added_by_its_kind(folder: Path) -> None:
    recipe = Recipe.load(folder, ["steps.look.kind=validate", "steps.look.data=data"])
    assert recipe.steps["look"].model_dump()["kind"] == "validate"


def test_a_recipe_written_out_is_the_same_recipe(folder: Path) -> None:
    recipe = Recipe.load(folder)
    assert _load(folder, recipe.as_yaml()).model_dump() == recipe.model_dump()


def test_objects_and_yaml_make_the_same_recipe(folder: Path) -> None:
    recipe = Recipe.load(folder)
    same = Recipe(name=recipe.name, seed=recipe.seed, model=recipe.model, steps=recipe.steps)
    assert same.model_dump() == recipe.model_dump()


@pytest.mark.parametrize(
    ("change", "to", "line", "words"),
    [
        ("kind: tune", "kind: tone", 12, "'tone' is unknown; did you mean 'tune'"),
        ("batch_size: 8", "batch_sise: 8", 15, "did you mean 'batch_size'"),
        ("batch_size: 8", "max_tokens: 8", 15, "write `objective: {kind: sft, max_length: …}`"),
        ("batch_size: 8", "batch_size: many", 15, "expected a whole number, got 'many'"),
        ("batch_size: 8", "batch_size: true", 15, "wants a number"),
        ("learning_rate: 1.0e-2", "learning_rate: .nan", 16, "finite"),
        ("data: data\n    technique", "data: dota\n    technique", 13, "no step 'dota'"),
        ("model: tune", "model: data", 21, "makes a dataset"),
        ("data: data\n    model: tune", "data: tune\n    model: tune", 20, "makes a model"),
        ("name: tickets", "name: ../tickets", 2, "small letters"),
        ("name: tickets", "nome: tickets", 2, "did you mean 'name'"),
        ("seed: 3", "seed: -3", 3, "at least 0"),
        ("luthier: 1", "luthier: 2", 1, "expected 1, got 2"),
        ("model: tiny-model", "model: smollm2-135m-instrukt", 4, "did you mean 'smollm2-135m-instruct'"),
        ("ops: [normalize, exact_dedup]", "ops: [normalice]", 9, "did you mean 'normalize'"),
    ],
)
def test_mistakes_are_named_with_line_and_remedy(folder: Path, change: str, to: str, line: int, words: str) -> None:
    assert change in RECIPE
    with pytest.raises(LuthierError) as caught:
        _load(folder, RECIPE.replace(change, to))
    assert caught.value.where.line == line
    assert words in f"{caught.value.message}; {caught.value.hint}"


def test_a_ring_of_steps_is_refused(folder: Path) -> None:
    ring = "luthier: 1\nmodel: tiny-model\nsteps:\n  data: {kind: prepare, source: {kind: csv, path: tickets.csv}}\n"
    ring += "  a: {kind: tune, data: data, model: b}\n  b: {kind: tune, data: data, model: a}\n"
    ring += "  c: {kind: tune, data: data, model: b}\n  d: {kind: tune, data: data, model: c}\n"
    with pytest.raises(LuthierError, match="wait for each other: a, b") as caught:
        _load(folder, ring)
    assert caught.value.message.endswith(": a, b"), "what stands behind the ring is not in it"


def test_a_recipe_without_a_model_says_what_to_add(folder: Path) -> None:
    with pytest.raises(LuthierError, match="names no model") as caught:
        _load(folder, RECIPE.replace("model: tiny-model\n", ""))
    assert "smollm2" in caught.value.hint


def test_the_name_model_is_kept(folder: Path) -> None:
    with pytest.raises(LuthierError, match="is kept for"):
        _load(folder, RECIPE.replace("  tune:\n", "  model:\n").replace("model: tune", "model: model"))


def test_a_recipe_cannot_be_changed(folder: Path) -> None:
    recipe = Recipe.load(folder)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 4
