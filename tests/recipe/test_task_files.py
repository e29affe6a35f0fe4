"""A job that does not see the recipe's folder is sent the files that its step reads, or the step is refused."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

from luthier.core.component import components_by_kind
from luthier.core.errors import CorruptArtifact, DataError, InputError
from luthier.core.remote_store import RemoteStore
from luthier.data.source import Source
from luthier.recipe.batch import make_task_step
from luthier.recipe.executor import Placement, StepTask
from luthier.recipe.executors.sky import SkyExecutor
from luthier.recipe.executors.slurm import SlurmExecutor
from luthier.recipe.planner import RecipePlan, build_recipe_plan
from luthier.recipe.runner import run_recipe
from luthier.recipe.schema import Recipe
from luthier.recipe.task_files import find_sent_models, find_step_files, send_files, send_models
from luthier.recipe.workspace import Workspace
from tests.tiny_models import small_recipe


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecipePlan:
    """A recipe whose store is behind a URL."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    path = small_recipe(tmp_path / "recipe")
    workspace = Workspace(path.parent, f"memory://{secrets.token_hex(4)}")
    return build_recipe_plan(Recipe.load(path, (), workspace))


def task_of(plan: RecipePlan, step: str) -> StepTask:
    """What a job of SkyPilot gets."""
    files = SkyExecutor().find_files(plan, plan[step])
    return StepTask.of(plan, plan[step], send_files(plan.store, files))


def leave(plan: RecipePlan) -> None:
    """Go to a machine that has nothing of the recipe."""
    shutil.rmtree(plan.recipe.recipe_dir)


def test_a_step_is_made_where_the_folder_is_not(plan: RecipePlan) -> None:
    task = task_of(plan, "data")
    assert list(task.files) == ["tickets.csv"]
    leave(plan)
    made = make_task_step(StepTask.model_validate_json(task.model_dump_json()))
    assert made.digest == plan["data"].digest
    assert plan.store.has(made.digest)


def test_a_training_is_planned_with_its_model_and_without_the_rows_file(plan: RecipePlan) -> None:
    task = task_of(plan, "tune")
    assert "tickets.csv" not in task.files
    assert "tiny-model/config.json" in task.files
    leave(plan)
    opened, planned = task.open()
    assert planned.digest == plan["tune"].digest
    assert [one.digest for one in opened] == [one.digest for one in plan]
    assert (opened.recipe.recipe_dir / "tiny-model" / "config.json").is_file()


def test_files_that_are_there_are_used_where_they_are(plan: RecipePlan) -> None:
    opened, _ = task_of(plan, "tune").open()
    assert opened.recipe.recipe_dir == plan.recipe.recipe_dir.absolute()


def test_a_changed_file_is_not_taken_for_the_one_that_was_sent(plan: RecipePlan) -> None:
    task = task_of(plan, "data")
    (plan.recipe.recipe_dir / "tickets.csv").write_text("message,category\na,b\n")
    opened, planned = task.open()
    assert planned.digest == plan["data"].digest
    assert opened.recipe.recipe_dir != plan.recipe.recipe_dir.absolute()
    with pytest.raises(DataError, match="what it reads changed"):
        task.model_copy(update={"files": {}}).open()


def test_a_file_that_was_spoilt_on_the_way_is_named(plan: RecipePlan) -> None:
    task, store = task_of(plan, "data"), plan.store
    assert isinstance(store, RemoteStore)
    path = store._beside(f"files/{task.files['tickets.csv']}")
    data = bytearray(store._files.cat_file(path))
    data[5] ^= 1
    store._files.pipe_file(path, bytes(data))
    leave(plan)
    with pytest.raises(CorruptArtifact, match="its bytes differ"):
        task.open()
    store._files.rm_file(path)
    with pytest.raises(CorruptArtifact, match="is missing"):
        task.open()


def test_a_file_outside_the_folder_is_refused_with_its_place(plan: RecipePlan, tmp_path: Path) -> None:
    shutil.copy(plan.recipe.recipe_dir / "tickets.csv", tmp_path / "far.csv")
    recipe = Recipe.load(plan.recipe.file, [f"steps.data.source.path={tmp_path / 'far.csv'}"], plan.recipe.workspace)
    other = build_recipe_plan(recipe)
    with pytest.raises(InputError, match="lies outside the recipe's folder") as caught:
        SkyExecutor().check(other, other["data"])
    assert caught.value.where.field == "steps.data.source.path"
    with pytest.raises(InputError, match="lies outside the recipe's folder"):
        Placement(SkyExecutor()).check_files(other)
    Placement(SlurmExecutor()).check_files(other)
    SlurmExecutor().check(other, other["data"])
    SkyExecutor().check(other, other["tune"])


def test_a_base_model_from_outside_the_folder_travels_as_its_artifact(
    plan: RecipePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "models" / "mine"
    shutil.copytree(plan.recipe.recipe_dir / "tiny-model", model)
    recipe = Recipe.load(plan.recipe.file, [f"model={model}"], plan.recipe.workspace)
    other = build_recipe_plan(recipe)
    run_recipe(recipe, only=["model"])
    sky = SkyExecutor()
    sky.check(other, other["tune"])
    assert sky.find_files(other, other["tune"]) == {}
    models = find_sent_models(other, other["tune"], sky.reaches)
    assert [planned.name for planned in models] == ["model"]
    send_models(other, models)
    send_models(other, models)  # it stands there already
    task = StepTask.of(other, other["tune"], {}, models)
    leave(other)
    shutil.rmtree(model)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "another machine"))
    opened, planned = task.open()
    assert planned.digest == other["tune"].digest
    assert (opened.store.open(planned.inputs["model"]).check().folder / "config.json").is_file()


def test_a_pattern_and_a_folder_name_all_their_files(plan: RecipePlan) -> None:
    folder = plan.recipe.recipe_dir
    shutil.copy(folder / "tickets.csv", folder / "more.csv")
    recipe = Recipe.load(plan.recipe.file, ["steps.data.source.path='*.csv'"], plan.recipe.workspace)
    other = build_recipe_plan(recipe)
    assert sorted(find_step_files(other, other["data"], lambda path: False)) == ["more.csv", "tickets.csv"]


@pytest.mark.parametrize("kind", sorted(components_by_kind(Source)))
def test_every_source_of_files_names_them(kind: str, tmp_path: Path) -> None:
    member = components_by_kind(Source)[kind]
    if "path" not in member.model_fields or kind in ("wheel", "traces"):
        pytest.skip("its rows come from no file that the recipe names")
    (tmp_path / "rows").write_bytes(b"x")
    found = list(member.model_construct(path="rows").paths(tmp_path))
    assert found == [("path", tmp_path / "rows")]
