"""What goes wrong around a search: it is the worst trial, one clear error, or nothing at all."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.artifacts.search import read_trials
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, LuthierError, SystemResourceError
from luthier.core.store import Store
from luthier.core.training_outcomes import get_outcomes_path
from luthier.recipe.schema import Recipe
from search_recipe import LORA, files_of, run_command, write_recipe
from tiny_models import own_cache, small_recipe, write_csv

SMALL = (
    "steps.best.over={technique.c: [0.01, 1, 100], technique.words: [1, 2]}",
    "steps.best.budget=2.5",
    "steps.best.finalists=1",
    "steps.best.seeds=1",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    """The model of the small search."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        yield Recipe.load(write_recipe(folder / "here"), SMALL).run(progress=False)["best"].artifact


@pytest.mark.slow
def test_a_training_that_diverges_is_the_worst_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    overrides = ("steps.best.over={learning_rate: [1.0e-2, 1.0e+18]}", "steps.best.budget=2", "steps.tune.epochs=1")
    best = Recipe.load(small_recipe(tmp_path, LORA, rows=150), overrides).run(progress=False)["best"].artifact
    failed = {row.settings["learning_rate"]: row.failed for row in read_trials(best) if row.failed}
    assert failed.keys() == {1e18}
    assert re.match(r"training diverged at step|the model's probabilities are no numbers", failed[1e18])


def test_one_class_is_one_clear_error(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "here")
    words = ("parcel", "courier", "address", "shipment", "tracking")
    rows = [{"message": f"Where is the {words[one % 5]} of order {one}", "category": "delivery"} for one in range(300)]
    write_csv(path.parent / "tickets.csv", rows)
    with pytest.raises(LuthierError, match="all 300 rows have the same answer") as caught:
        Recipe.load(path, SMALL).run(progress=False)
    assert caught.value.hint


@pytest.mark.slow
def test_two_searches_on_one_store_make_each_training_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_STORE", str(tmp_path / "store"))
    folder = write_recipe(tmp_path / "here").parent
    metrics = ("macro_f1", "accuracy")
    both = [run_command(folder, tmp_path, *SMALL, f"steps.best.metric={metric}") for metric in metrics]
    logs = [process.communicate(timeout=600)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], logs
    made = sum(len(re.findall(r"best\.\S+-tune: done", log)) for log in logs)
    store = Store(tmp_path / "store")
    trained = sum(store.manifest(digest).kind == "tune" for digest in store.digests())
    assert made <= trained <= made + 1, "`of` itself is made beside"
    for metric in metrics:
        monkeypatch.setenv("LUTHIER_STORE", str(tmp_path / "alone" / metric))
        alone = Recipe.load(folder / "recipe.yaml", [*SMALL, f"steps.best.metric={metric}"]).run(progress=False)
        assert files_of(store.open(alone["best"].artifact.digest)) == files_of(alone["best"].artifact)


def test_a_full_disk_ends_the_search_and_it_goes_on(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Artifact
) -> None:
    monkeypatch.setenv("LUTHIER_STORE", str(small_disk / "store"))
    path = write_recipe(tmp_path / "here")
    Recipe.load(path, SMALL).run(progress=False, only=["tune"])
    (small_disk / "filling").write_bytes(bytes(400_000))
    with pytest.raises(SystemResourceError, match="the disk is full"):
        Recipe.load(path, SMALL).run(progress=False)
    made = Store(small_disk / "store").digests()
    assert len(made) > 2, "some trials were made"
    shutil.copytree(small_disk / "store", tmp_path / "larger")
    monkeypatch.setenv("LUTHIER_STORE", str(tmp_path / "larger"))
    best = Recipe.load(path, SMALL).run(progress=False)["best"].artifact
    assert files_of(best) == files_of(undisturbed)
    assert {*made} < {*Store(tmp_path / "larger").digests()}


def test_a_clock_that_is_set_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Artifact
) -> None:
    now, asked = time.time, [0]

    def jump() -> float:
        asked[0] += 1
        return now() - 86_400.0 * asked[0]

    monkeypatch.setattr(time, "time", jump)
    best = Recipe.load(write_recipe(tmp_path / "here"), SMALL).run(progress=False)["best"].artifact
    assert asked[0] > 10, "each artifact notes when it was finished"
    assert files_of(best) == files_of(undisturbed)


@pytest.mark.parametrize("content", [b"[{", b"\xff", b'[{"value": "__import__"}]'])
def test_a_spoilt_memory_of_outcomes_changes_nothing(tmp_path: Path, undisturbed: Artifact, content: bytes) -> None:
    get_outcomes_path().parent.mkdir(parents=True, exist_ok=True)
    get_outcomes_path().write_bytes(content)
    best = Recipe.load(write_recipe(tmp_path / "here"), SMALL).run(progress=False)["best"].artifact
    assert files_of(best) == files_of(undisturbed)


def test_no_validation_rows_are_said_before_anything_is_made(tmp_path: Path) -> None:
    recipe = Recipe.load(write_recipe(tmp_path / "here"), [*SMALL, "steps.data.split={test: 60}"])
    with pytest.raises(DataError, match="no validation rows"):
        recipe.run(progress=False)
    assert not recipe.workspace.open_store().digests()
