"""Workers of a search: processes here, or the executor by which the searched step is placed; the choice is the same."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from luthier.artifacts.search import SearchRecord, read_trials
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError, RecipeError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.recipe.executor import Executor
from luthier.recipe.executors.local import LocalExecutor
from luthier.recipe.executors.process import StepProcess
from luthier.recipe.planner import PlannedStep, RecipePlan
from luthier.recipe.schema import Recipe
from search_recipe import break_fit, files_of, run_command, write_recipe
from tiny_models import own_cache

SMALL = (
    "steps.best.over={technique.c: [0.01, 1, 100], technique.words: [1, 2]}",
    "steps.best.budget=2.5",
    "steps.best.max_trials=6",
    "steps.best.finalists=1",
    "steps.best.seeds=1",
)


class Elsewhere(Executor):
    """Makes steps in the threads that follow its jobs, and counts them."""

    kind: Literal["test_elsewhere"] = "test_elsewhere"
    is_elsewhere: ClassVar[bool] = True
    made: ClassVar[list[str]] = []
    most: ClassVar[int] = 0
    _active: ClassVar[int] = 0
    _lock: ClassVar[threading.Lock] = threading.Lock()

    name: str = ""
    """What the jobs are called."""

    def make_artifact(self, plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> Artifact:
        """Make the step under its lock."""
        with self._lock:
            Elsewhere.made.append(planned.name)
            Elsewhere._active += 1
            Elsewhere.most = max(self.most, self._active)
        try:
            with plan.store_of(planned).lock(planned.digest):
                return LocalExecutor().make_artifact(plan, planned, events)
        finally:
            with self._lock:
                Elsewhere._active -= 1


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    """The model of the small search, made in one process."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        yield Recipe.load(write_recipe(folder / "here"), SMALL).run(progress=False)["best"].artifact


@pytest.fixture(autouse=True)
def forget() -> None:
    """Count anew."""
    Elsewhere.made, Elsewhere.most = [], 0


@pytest.mark.parametrize("workers", [1, 3])
def test_trials_go_where_the_recipe_places_the_searched_step(tmp_path: Path, local: Artifact, workers: int) -> None:
    placed = ("steps.tune.on={kind: test_elsewhere, name: trials}", f"steps.best.workers={workers}")
    best = Recipe.load(write_recipe(tmp_path / "here"), [*SMALL, *placed]).run(progress=False)["best"].artifact
    assert files_of(best) == files_of(local)
    assert best.digest == local.digest
    assert {"tune", "0-validation", "1-tune", "1-validation", "0-test"} <= {*Elsewhere.made}
    assert not {"best", "data"} & {*Elsewhere.made}
    assert Elsewhere.most <= workers
    assert (Elsewhere.most > 1) == (workers > 1)


def test_trials_go_where_the_command_line_places_the_searched_step(tmp_path: Path, local: Artifact) -> None:
    recipe = Recipe.load(write_recipe(tmp_path / "here"), [*SMALL, "steps.tune.on=slurm"])
    best = recipe.run(progress=False, on="tune={kind: test_elsewhere}")["best"].artifact
    assert files_of(best) == files_of(local)
    assert {"tune", "0-validation", "1-tune"} <= {*Elsewhere.made}
    Elsewhere.made = []
    larger = Recipe.load(recipe.file, [*SMALL, "steps.best.finalists=2"])
    larger.run(progress=False, on=["data={kind: test_elsewhere}", "best=local"])
    assert "0-validation" not in Elsewhere.made, "what places the data does not place trials"


def test_a_trial_that_fails_elsewhere_is_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_fit(monkeypatch, lambda technique: MemoryError() if technique.words == 1 else None)
    placed = ("steps.tune.on={kind: test_elsewhere}", "steps.best.workers=4")
    best = Recipe.load(write_recipe(tmp_path / "here"), [*SMALL, *placed]).run(progress=False)["best"].artifact
    failed = {row.settings["technique.words"]: row.failed for row in read_trials(best) if row.failed}
    assert failed == {1: "the machine has no memory left"}
    assert SearchRecord.read(best).failed


def test_workers_on_this_machine_need_threads_and_jobs_do_not(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "here")
    with pytest.raises(RecipeError, match="give each trial its `threads`") as caught:
        Recipe.load(path, [*SMALL, "steps.best.workers=2"]).plan()
    assert caught.value.where.field == "steps.best.workers"
    assert Recipe.load(path, [*SMALL, "steps.best.workers=2", "steps.tune.on=slurm"]).plan()["best"].forecast


def test_processes_stay_for_further_trials_and_end_with_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[StepProcess] = []
    begin = StepProcess.__init__

    def count(self: StepProcess, environment: dict[str, str]) -> None:
        begun.append(self)
        begin(self, environment)

    monkeypatch.setattr(StepProcess, "__init__", count)
    made = []
    for workers in (1, 2):
        begun.clear()
        path = write_recipe(tmp_path / f"{workers}")
        heard: list[RunEvent] = []
        recipe = Recipe.load(path, [*SMALL, "steps.best.threads=1", f"steps.best.workers={workers}"])
        made.append(recipe.run(RunEventEmitter(heard.append))["best"].artifact)
        children = [one for one in heard if one.kind == "done" and one.step.startswith("best.")]
        assert len(begun) == workers < len(children)
        assert all(not one.is_idle for one in begun)
    assert files_of(made[0]) == files_of(made[1])


@pytest.mark.slow
def test_a_process_that_is_killed_costs_one_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = StepProcess.make
    killed: list[str] = []

    def kill(self: StepProcess, *given: Any) -> Any:
        if given[0].step == "1-tune" and not killed:
            killed.append(given[0].step)
            os.kill(self._child.pid, signal.SIGKILL)
        return make(self, *given)

    monkeypatch.setattr(StepProcess, "make", kill)
    path = write_recipe(tmp_path / "here")
    best = Recipe.load(path, [*SMALL, "steps.best.threads=1"]).run(progress=False)["best"].artifact
    failed = [row for row in read_trials(best) if row.failed]
    assert [row.trial for row in failed] == [1]
    assert "SIGKILL, most likely because memory ran out" in failed[0].failed


@pytest.mark.slow
def test_a_search_with_workers_stops_at_once_and_goes_on(tmp_path: Path) -> None:
    overrides = ("steps.best.threads=1", "steps.best.workers=2", "steps.best.budget=2")
    folder = write_recipe(tmp_path / "stopped").parent
    process = run_command(folder, tmp_path, *overrides)
    assert process.stderr is not None
    next(line for line in process.stderr if "best." in line and ": done" in line)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 130, log
    again = run_command(folder, tmp_path, *overrides)
    _, log = again.communicate(timeout=600)
    assert again.returncode == 0, log
    whole = Recipe.load(write_recipe(tmp_path / "whole"), ["steps.best.threads=1", "steps.best.budget=2"])
    best = whole.run(progress=False)["best"].artifact
    assert files_of(Recipe.load(folder / "recipe.yaml").workspace.open_store().open(best.digest)) == files_of(best)


def test_an_unknown_place_is_refused(tmp_path: Path) -> None:
    recipe = Recipe.load(write_recipe(tmp_path / "here"), SMALL)
    with pytest.raises(LuthierError, match="there is no step 'tuna'"):
        recipe.run(progress=False, on="tuna=process")
