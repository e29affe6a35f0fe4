"""Killed with SIGKILL at any moment, a training goes on and ends in the bytes of an undisturbed one.

On one core, and on two that read two packs of a step side by side.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tuning import TuneEnv, make_env, reopened

CHILD = """
import sys, torch
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
from tuning import reopened
from luthier.tune.training import parallel
from luthier.tune.training.trainer import Trainer
from luthier.tune.steps.tune import Tune
import time
parallel.LEAST_TOKENS, parallel.WORTH = 1, 1.0
once = Trainer._step
def slow(self, number, keeper):
    time.sleep(0.05)
    print("step", number, self._lanes.count, flush=True)
    return once(self, number, keeper)
Trainer._step = slow
POLICY = {"kind": "grpo", "rewards": [{"kind": "regex", "pattern": "e"}],
          "rollout": {"num_generations": 4, "max_completion_length": 4, "steps_per_generation": 2},
          "kl": {"coefficient": 0.05, "target": 0.01}}
policy = {"objective": POLICY, "validation": {"rows": 8, "every": 2}}
given = {"validation": {"rows": 8, "every": 2, "metric": "accuracy"}}
technique = {"kind": sys.argv[3].removesuffix(" of a policy")}
step = Tune(data="data", technique=technique, batch_size=4, epochs=3, save_epochs=2, dtype="bfloat16",
            learning_rate=1e-2, save_steps=3, ema=0.9, **(policy if sys.argv[3] != technique["kind"] else given))
made = reopened(Path(sys.argv[1])).tune(step)
"""


def child(root: Path, technique: str, lanes: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-W", "ignore", "-c", CHILD, str(root), str(Path(__file__).parents[1]), technique]
    environment = {**os.environ, "OMP_NUM_THREADS": str(lanes)}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def digests(env: TuneEnv) -> dict[str, str]:
    found = [env.store.open(digest) for digest in env.store.digests()]
    (tuned,) = [artifact for artifact in found if artifact.manifest.kind == "tune"]
    return {entry.path: entry.digest for entry in tuned.manifest.files}


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("technique", ["lora", "full", "lora of a policy"])
def test_killed_at_random_moments_it_ends_in_the_same_bytes(tmp_path: Path, technique: str, lanes: int) -> None:
    calm, wild = make_env(tmp_path / "calm"), make_env(tmp_path / "wild")
    with child(tmp_path / "calm", technique, lanes) as process:
        said, _ = process.communicate()
        assert process.returncode == 0
        assert {line.split()[-1] for line in said.splitlines() if line.startswith("step")} == {str(lanes)}
    chance, kills, finished = random.Random(technique), 0, False
    while not finished:
        with child(tmp_path / "wild", technique, lanes) as process:
            assert process.stdout is not None
            if process.stdout.readline() and kills < 5 * lanes:
                time.sleep(chance.random() / lanes)
                process.kill()
            process.communicate()
            finished = process.returncode == 0
        kills += not finished
        assert kills < 24
    assert kills >= 3 * lanes
    assert digests(reopened(tmp_path / "wild")) == digests(calm)
    assert any(path.startswith("epochs/1/") for path in digests(calm))
    assert wild.store.verify() == []
