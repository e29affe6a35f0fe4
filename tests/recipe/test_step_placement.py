"""Where a step is made stands in the recipe or on the command line, and never in the artifact's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.errors import RecipeError
from luthier.recipe.executor import Placement, parse_placement
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe, recipe_schema
from luthier.recipe.workspace import Workspace

RECIPE = """luthier: 1
steps:
  data:
    kind: prepare
    source: {{kind: csv, path: rows.csv, prompt: text, answer: label}}
    {on}
"""


def load(folder: Path, on: str = "", *overrides: str) -> Recipe:
    """A recipe of one step that is placed so."""
    (folder / "rows.csv").write_text("text,label\nno,a\nyes,b\n")
    (folder / "recipe.yaml").write_text(RECIPE.format(on=on))
    workspace = Workspace(folder)
    return Recipe.load(workspace.find_recipe(None), overrides, workspace)


def kind_of(recipe: Recipe, placement: Placement | None = None) -> str:
    """The kind of the executor of the step."""
    return (placement or Placement()).executor_of(build_recipe_plan(recipe, costs_of=())["data"]).kind


def test_the_place_of_a_step_does_not_change_its_artifact(tmp_path: Path) -> None:
    asked = ("", "on: process", "on: {kind: slurm, partition: gpu}", "on: {kind: kubernetes, image: luthier}")
    plans = [build_recipe_plan(load(tmp_path, on), costs_of=())["data"] for on in asked]
    assert len({planned.digest for planned in plans}) == 1
    assert len({planned.step.code() for planned in plans}) == 1
    assert "on" not in plans[1].step.hashed_settings()


def test_the_command_line_counts_before_the_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path, "on: {kind: slurm, partition: gpu}")
    assert kind_of(recipe) == "slurm"
    assert kind_of(load(tmp_path)) == "local"
    assert kind_of(recipe, parse_placement(["process"])) == "process"
    assert kind_of(recipe, parse_placement(["process", "data=local"])) == "local"
    assert kind_of(load(tmp_path, "on: slurm", "steps.data.on=process")) == "process"


def test_it_runs_where_the_recipe_says(tmp_path: Path) -> None:
    done = load(tmp_path, "on: {kind: process, threads: 1}").run(progress=False)
    local = load(tmp_path).run(progress=False)
    assert local["data"].cached
    assert local["data"].artifact.digest == done["data"].artifact.digest


@pytest.mark.parametrize(
    ("on", "line", "field", "said"),
    [
        ("on: slurn", 6, "steps.data.on", "executor 'slurn' is unknown"),
        ("on: {kind: slurm, partition: 'a b'}", 6, "steps.data.on", "expected one word"),
        ("on:\n      kind: slurm\n      gpu: 1", 8, "steps.data.on.gpu", "there is no setting 'gpu'"),
        ("on: {kind: kubernetes}", 6, "steps.data.on.image", "image"),
        ("on: 3", 6, "steps.data.on", "expected an executor"),
    ],
)
def test_a_wrong_place_is_an_error_with_its_line(tmp_path: Path, on: str, line: int, field: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(tmp_path, on)
    assert said in str(error.value)
    assert error.value.where.line == line
    assert str(error.value.where.field).startswith(field)


def test_the_schema_of_a_step_has_it() -> None:
    schema = recipe_schema()
    assert schema["$defs"]["step.prepare"]["properties"]["on"]["description"].startswith("Where the step is made")
    assert "executor.slurm" in schema["$defs"]
