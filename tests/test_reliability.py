"""Whole runs under fire: killed at random moments, two at once, a byte flipped between steps."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.core.artifact import read_manifest
from luthier.core.store import Store
from tests import ready
from tests.tiny_models import own_cache, small_recipe

STEPS = {"model", "data", "tune", "report", "gate"}


class Workplace:
    """A folder with a recipe, a cache of its own, and a command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "LUTHIER_CACHE": own_cache(folder), "OMP_NUM_THREADS": "1"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command; its results are JSON."""
        command = [sys.executable, "-m", "luthier", *arguments, "--json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return ready.Popen(command, cwd=self.folder, env=self.environment, text=True, **pipes)

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """What a command printed."""
        out, err = process.communicate(timeout=300)
        assert out, err
        told: dict[str, Any] = json.loads(out)
        return told

    def run(self, *overrides: str) -> dict[str, Any]:
        """Run the recipe to its end."""
        return self.finish(self.start("run", "recipe.yaml", *overrides))

    def bytes_made(self) -> dict[str, dict[str, str]]:
        """Digests of the files of every artifact, by artifact."""
        stores = [Store(self.folder / ".luthier"), Store(self.folder / "cache" / "store")]
        assert [fault for store in stores for fault in store.verify()] == []
        folders = [store.artifacts / digest for store in stores for digest in store.digests()]
        return {folder.name: {entry.path: entry.digest for entry in read_manifest(folder).files} for folder in folders}

    def clear(self) -> None:
        """Forget everything that was made, but not what was found out about this machine."""
        shutil.rmtree(self.folder / ".luthier", ignore_errors=True)
        shutil.rmtree(self.folder / "cache" / "store", ignore_errors=True)

    def knows(self, other: Workplace) -> None:
        """Take over what another found out about this machine: by the clock, which a busy one reads differently."""
        if (found := other.folder / "cache" / "attention.json").exists():
            shutil.copy(found, self.folder / "cache")


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    small_recipe(tmp_path / "one")
    return Workplace(tmp_path / "one")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe was run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    small_recipe(folder)
    assert set(Workplace(folder).run()["steps"]) == STEPS
    return folder


@pytest.fixture
def whole(finished: Path, tmp_path: Path) -> Workplace:
    """A copy of it."""
    return Workplace(Path(shutil.copytree(finished, tmp_path / "whole", symlinks=True)))


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(workplace: Workplace, kills: int) -> None:
    victim = Workplace(Path(shutil.copytree(workplace.folder, workplace.folder.with_name("two"), symlinks=True)))
    process = workplace.start("run", "recipe.yaml")
    started = time.monotonic()
    assert set(workplace.finish(process)["steps"]) == STEPS
    whole = time.monotonic() - started
    wanted = workplace.bytes_made()
    assert len(wanted) == len(STEPS)
    victim.knows(workplace)

    chance = random.Random(kills)
    killed = 0
    while killed < kills:
        process = victim.start("run", "recipe.yaml")
        try:
            process.communicate(timeout=chance.uniform(0.2, 1.0) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            victim.bytes_made()
            continue
        assert victim.bytes_made() == wanted
        victim.clear()
    victim.run()
    assert victim.bytes_made() == wanted


def test_two_processes_share_the_work(workplace: Workplace) -> None:
    processes = [workplace.start("run", "recipe.yaml") for _ in range(2)]
    told = [workplace.finish(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for step in STEPS:
        assert sorted(run["steps"][step]["cached"] for run in told) == [False, True]
    assert told[0]["steps"]["tune"]["artifact"] == told[1]["steps"]["tune"]["artifact"]


def test_ctrl_c_keeps_what_is_finished(workplace: Workplace) -> None:
    workplace.run("steps.tune.batch_size=60")  # everything before tune is made
    process = workplace.start("run", "recipe.yaml")
    while not list((workplace.folder / ".luthier" / "work").glob("*/folder")):
        time.sleep(0.01)
    process.send_signal(2)
    told = workplace.finish(process)
    assert process.returncode == 130
    assert told["error"]["kind"] == "Interrupted"
    assert workplace.run()["steps"]["data"]["cached"]


def test_a_flipped_byte_is_named_when_it_would_be_used(whole: Workplace) -> None:
    folder = Path(whole.run()["steps"]["data"]["path"])
    table = folder / "examples" / "train.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    process = whole.start("run", "recipe.yaml", "steps.tune.batch_size=4")
    told = whole.finish(process)
    assert process.returncode == 2
    assert told["error"]["kind"] == "CorruptArtifact"
    assert told["error"]["where"]["file"] == str(table)
    faults = whole.finish(whole.start("store", "verify"))["faults"]
    assert len(faults) == 1
    assert str(table) in faults[0]


def test_a_changed_setting_makes_only_what_depends_on_it(whole: Workplace) -> None:
    again = whole.run("steps.report.metrics=[accuracy]")["steps"]
    assert {name: step["cached"] for name, step in again.items()} == {
        "model": True, "data": True, "tune": True, "report": False, "gate": False,
    }  # fmt: skip
