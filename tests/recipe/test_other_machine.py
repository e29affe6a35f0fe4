"""A training over a store behind a URL, killed on one machine, goes on on another and ends in the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.core.remote_store import RemoteStore, open_store
from luthier.core.system.packages import is_installed
from tests import ready
from tests.test_every_executor import s3_store
from tests.tiny_models import own_cache, small_recipe

pytestmark = pytest.mark.skipif(
    not (is_installed("moto") and is_installed("s3fs")), reason="a bucket for tests needs moto[server] and s3fs"
)
CHILD = """
import sys, time
from pathlib import Path
from luthier.core import remote_checkpoints
from luthier.core.store import Store
from luthier.recipe.runner import run_recipe
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.tune.training.trainer import Trainer

remote_checkpoints.LOOK_S = 0.2
once = Trainer._step
def slow(self, number, keeper):
    time.sleep(float(sys.argv[3]))
    print("step", number, flush=True)
    return once(self, number, keeper)
Trainer._step = slow
recipe = Path(sys.argv[1])
workspace = Workspace(recipe.parent, sys.argv[2])
overrides = ("steps.tune.save_steps=2", "steps.tune.epochs=2", "steps.tune.save_epochs=1")
made = run_recipe(Recipe.load(recipe, overrides, workspace), only=["tune"])["tune"]
print("made", made.artifact.digest, made.cached, flush=True)
"""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_store() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield f"{environment['STORES']}/team"


def machine(folder: Path, recipe: Path, store: str, pause: float) -> subprocess.Popen[str]:
    """A machine with a cache of its own that makes the training."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "LUTHIER_CACHE": own_cache(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(recipe), store, str(pause)]
    return ready.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def files_of(store: Any, digest: str) -> dict[str, str]:
    return {entry.path: entry.digest for entry in store.open(digest).check().manifest.files}


def test_a_training_killed_here_goes_on_there(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(tmp_path / "recipe")
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "mine"))
    with machine(tmp_path / "calm", recipe, str(tmp_path / "calm" / "store"), 0.0) as calm:
        steps, *_, made = calm.communicate(timeout=300)[0].strip().rpartition("\n")
    digest = made.split()[1]
    count = len(steps.splitlines())
    assert count > 8
    store = open_store(bucket)
    assert isinstance(store, RemoteStore)
    with machine(tmp_path / "a", recipe, bucket, 0.3) as first:
        assert first.stdout is not None
        done = 0
        for line in first.stdout:
            done = int(line.split()[1])
            if done > 4 and store._works_behind.read(digest) is not None:
                break
        first.kill()
        first.communicate()
    assert 0 < done < count
    sealed = store._works_behind.read(digest)
    assert sealed is not None
    assert "checkpoint.safetensors" in sealed.files
    begun = time.monotonic()
    with machine(tmp_path / "b", recipe, bucket, 0.0) as second:
        *lines, made = second.communicate(timeout=300)[0].strip().splitlines()
    assert made.split() == ["made", digest, "False"]
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == list(range(numbers[0], count))
    assert 2 <= numbers[0] <= done + 1, "only what the first machine had not sent is made again"
    assert time.monotonic() - begun < 120
    assert files_of(store, digest) == files_of(open_store(tmp_path / "calm" / "store"), digest)
    assert store._works_behind.digests() == []
    assert [name for name in store._leases.names() if name.startswith(digest)] == []
