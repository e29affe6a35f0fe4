"""Small sets are seen often enough to be learnt, large ones once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from luthier.auto.advice.training import (
    ENOUGH_FOR_CLASSES,
    ENOUGH_STEPS,
    MOST_PASSES,
    MOST_PASSES_OF_TEXT,
    ROWS_PER_STEP,
    suggest_training,
)
from luthier.commands.recipe_text import render_recipe
from luthier.data.suggest.propose import propose_recipe
from luthier.tune.steps.tune import Tune


def test_it_speaks_of_the_training_that_there_is() -> None:
    assert Tune.model_fields["batch_size"].default == ROWS_PER_STEP
    assert Tune.model_fields["epochs"].default == 1.0


@pytest.mark.parametrize(
    ("rows", "classes", "settings"),
    [
        (188, 5, {"epochs": 4, "batch_size": 8}),
        (200, 5, {"epochs": 4, "batch_size": 8}),
        (320, 5, {"epochs": 3, "batch_size": 8}),
        (400, 12, {"epochs": 4, "batch_size": 8}),
        (40, 2, {"epochs": 8, "batch_size": 8}),
        (188, 0, {"epochs": 4}),
        (60, 0, {"epochs": 4, "batch_size": 8}),
        (768, 0, {}),
        (768, 5, {"batch_size": 8}),
        (2016, 5, {"batch_size": 8}),
        (2017, 5, {}),
        (10_000, 77, {}),
        (9_000, 77, {"epochs": 2}),
        (50_000, 0, {}),
    ],
)
def test_passes(rows: int, classes: int, settings: dict[str, int]) -> None:
    assert suggest_training(rows, classes).settings == settings


@given(st.integers(1, 100_000), st.integers(0, 200))
def test_never_fewer_steps_than_the_defaults_and_never_too_many_passes(rows: int, classes: int) -> None:
    found = suggest_training(rows, classes)
    passes = found.settings.get("epochs", 1)
    steps = math.ceil(rows * passes / found.settings.get("batch_size", ROWS_PER_STEP))
    assert steps >= math.ceil(rows / ROWS_PER_STEP)
    assert passes <= (MOST_PASSES if classes else MOST_PASSES_OF_TEXT)
    assert bool(found.why) == bool(found.settings)
    enough = ENOUGH_FOR_CLASSES if classes else ENOUGH_STEPS
    assert rows < ROWS_PER_STEP * max(enough, 4 * classes) or not found.settings
    assert steps >= enough or "batch_size" in found.settings


def test_a_recipe_for_few_rows_says_so(tmp_path: Path) -> None:
    for name, rows in (("few.csv", 235), ("many.csv", 4000)):
        lines = "".join(f"words {number},c{number % 5}\n" for number in range(rows))
        (tmp_path / name).write_text(f"text,intent\n{lines}", encoding="utf-8")
    text = render_recipe(propose_recipe(tmp_path / "few.csv"), "few")
    tune = yaml.safe_load(text)["steps"]["tune"]
    assert (tune["epochs"], tune["batch_size"]) == (4, 8)
    Tune.model_validate(tune)
    assert "one pass over about 188 rows would be 6 steps of 32, too few to learn from; this is 94 of 8 rows" in text
    many = propose_recipe(tmp_path / "many.csv")
    assert not {"epochs", "batch_size"} & yaml.safe_load(render_recipe(many, "many"))["steps"]["tune"].keys()
