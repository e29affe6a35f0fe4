"""`luthier make TASK` in several processes of one job, as torchrun starts them: the artifact that one process makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.core.artifact import Artifact
from luthier.recipe.executor import StepTask
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.runner import run_recipe
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from tests import ready
from tiny_models import RECIPE, small_recipe
from watching import free_port

PARTED = RECIPE.replace("    batch_size: 8\n", "    batch_size: 8\n    parts: 4\n    epochs: 2\n    save_steps: 1\n")


def load(folder: Path) -> Recipe:
    workspace = Workspace(folder)
    return Recipe.load(workspace.find_recipe(None), (), workspace)


def task_of(folder: Path, name: str) -> StepTask:
    plan = build_recipe_plan(load(folder))
    return StepTask.of(plan, plan[name])


def start(folder: Path, rank: int, size: int, port: int) -> subprocess.Popen[str]:
    job = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    command = [sys.executable, "-m", "luthier", "make", str(folder / "task.json")]
    return ready.Popen(
        command, env={**os.environ, **job}, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def make_alone(folder: Path) -> Artifact:
    """The tuned model of one process; what it reads is made first."""
    folder.mkdir()
    small_recipe(folder, PARTED)
    run_recipe(load(folder), only=["data"])
    return run_recipe(load(folder), only=["tune"])["tune"].artifact


def prepare(folder: Path) -> StepTask:
    folder.mkdir()
    small_recipe(folder, PARTED)
    run_recipe(load(folder), only=["data"])
    task = task_of(folder, "tune")
    (folder / "task.json").write_text(task.model_dump_json())
    return task


def files(artifact: Artifact) -> dict[str, str]:
    return {entry.path: entry.digest for entry in artifact.manifest.files}


@pytest.mark.slow
def test_three_ranks_make_the_artifact_of_one_also_after_one_was_killed(tmp_path: Path) -> None:
    alone = make_alone(tmp_path / "alone")
    folder = tmp_path / "job"
    task, port = prepare(folder), free_port()
    assert task.digest == alone.digest
    ranks = [start(folder, rank, 3, port) for rank in range(3)]
    state = task.workspace.open_store().root / "scratch"
    deadline = time.monotonic() + 240
    while not list(state.parent.rglob("checkpoint.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    told = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert time.monotonic() - killed < 60
    assert all(rank.returncode for rank in ranks)
    assert "of the training is gone" in told[0]
    assert "run it again: it goes on from its newest checkpoint" in told[0]
    ranks = [start(folder, rank, 2, free) for free in [free_port()] for rank in range(2)]
    told = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    assert files(task.workspace.open_store().open(task.digest)) == files(alone)
