"""Checkpoints: whole whatever happens, written beside the training, few, and within their share of the time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from luthier.core.errors import SystemResourceError
from luthier.tune.training import checkpoint
from luthier.tune.training.checkpoint import SHARE, CheckpointManager, TrainingState

CHILD = """
import sys, time, torch
from pathlib import Path
from luthier.tune.training import checkpoint
from luthier.tune.training.checkpoint import CheckpointManager, TrainingState
keeper = CheckpointManager(Path(sys.argv[1]), "one")
keeper.write(TrainingState(1, {"w": torch.ones(1000)}, ("a",), 1, 64))
keeper.wait()
def hanging(path):
    print("hanging", flush=True)
    time.sleep(60)
checkpoint.sync = hanging
keeper.write(TrainingState(2, {"w": torch.zeros(1000)}, ("a", "b"), 1, 64))
time.sleep(60)
"""


def state(step: int, value: float = 1.0, size: int = 1000) -> TrainingState:
    return TrainingState(step, {"w": torch.full((size,), value)}, tuple("abc"[:step]), 1, 64)


def test_a_kill_while_the_thread_writes_leaves_the_state_before(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hanging\n"
        process.send_signal(signal.SIGKILL)
    kept = CheckpointManager(path, "one").read()
    assert kept is not None
    assert (kept.step, kept.log, kept.tokens) == (1, ("a",), 64)
    assert torch.equal(kept.tensors["w"], torch.ones(1000))


def test_training_goes_on_while_a_state_is_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    sync = checkpoint.sync
    monkeypatch.setattr(checkpoint, "sync", lambda path: (gate.wait(10), sync(path))[1])
    keeper = CheckpointManager(tmp_path / "state.safetensors", "one")
    weights = torch.ones(1000)
    keeper.write(TrainingState(1, {"w": weights}, ("a",), 1, 64))
    weights.zero_()
    assert not keeper.path.exists()
    assert keeper.spent_s < 5
    gate.set()
    keeper.wait()
    kept = keeper.read()
    assert kept is not None
    assert torch.equal(kept.tensors["w"], torch.ones(1000))


def test_where_memory_is_short_training_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(checkpoint, "_has_room", lambda size: (asked.append(size), False)[1])
    keeper = CheckpointManager(tmp_path / "state.safetensors", "one")
    keeper.write(state(1))
    assert keeper.path.is_file()
    assert asked == [4 * 4000]


def test_nothing_is_due_while_a_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(checkpoint, "sync", lambda path: gate.wait(10))
    keeper = CheckpointManager(tmp_path / "state.safetensors", "one")
    keeper._begun = -1e6
    keeper.write(state(1))
    keeper._last = -1e6
    assert not keeper.is_due(9, 1000)
    gate.set()
    keeper.wait()
    assert keeper.is_due(9, 1000)


def test_only_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    keeper = CheckpointManager(tmp_path / "state.safetensors", "one")
    for step in (1, 2, 3):
        keeper.write_best({"w": torch.full((10,), float(step))}, step)
        keeper.write(state(step, step))
    keeper.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "state.safetensors"]
    kept, best = keeper.read(), keeper.read_best()
    assert kept is not None
    assert kept.step == 3
    assert best is not None
    assert best[0] == 3
    assert CheckpointManager(keeper.path, "another").read() is None


def test_a_failure_of_the_thread_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    keeper = CheckpointManager(tmp_path / "state.safetensors", "one")
    keeper.write(state(1))
    with pytest.raises(SystemResourceError, match="disk is full"):
        keeper.wait()


def test_the_share_of_the_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    keeper = CheckpointManager(tmp_path / "state.safetensors", "one")
    keeper._begun = keeper._last = 0.0
    monkeypatch.setattr(checkpoint, "_has_room", lambda size: False)  # training waits: all of it is seen
    put = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", lambda *args: (now.__setitem__(0, now[0] + 1.5), put(*args))[1])
    size, written = 200_000_000, 0
    for step in range(1, 4000):
        now[0] += 0.5
        if keeper.is_due(step, size):
            keeper.write(state(1, size=10))
            keeper._rate = size / 1.5
            written += 1
        assert keeper.spent_s <= 1.5 * SHARE * now[0]
    assert written == pytest.approx(SHARE * now[0] / 1.5, abs=2)


def test_given_steps_are_given(tmp_path: Path) -> None:
    keeper = CheckpointManager(tmp_path / "state.safetensors", "one", every=3)
    assert [step for step in range(1, 10) if keeper.is_due(step, 1 << 40)] == [3, 6, 9]
