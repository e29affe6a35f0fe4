"""A longer training goes on from the trunk of a shorter one, and ends in the bytes of one that went the whole way."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.core.errors import SystemResourceError
from luthier.tune.steps.tune import Tune
from luthier.tune.training import checkpoint, trunk_states
from luthier.tune.training.schedule import BatchSampler
from luthier.tune.training.trainer import Trainer
from luthier.tune.training.trunk import ENDINGS, digest_prefix
from test_twenty_five_ways import TUNE_OTHERWISE
from tuning import TuneEnv, examples, interrupted, make_env, pairs, reopened

SETTINGS: dict[str, Any] = {
    "data": "data", "batch_size": 4, "learning_rate": 1e-2, "dtype": "float32", "lr_scheduler": "wsd",
    "warmup_steps": 2, "decay": 0.25,
}  # fmt: skip
"""12 steps over 48 rows; a trunk of 5 of 7 steps, and of 9 of 12."""
SHORT: dict[str, Any] = {"max_steps": 7, "keep_trunk": True}


def files(env: TuneEnv, step: Tune, seed: int = 3) -> dict[str, str]:
    """Digests of what a training makes, by path."""
    return {entry.path: entry.digest for entry in env.tune(step, seed).manifest.files}


def states(env: TuneEnv) -> list[int]:
    """The steps at which states are kept."""
    return sorted(int(path.stem) for path in (env.store.kept / "states").glob("*/*.safetensors"))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps (from 0) that are computed."""
    found: list[int] = []
    once = Trainer._step

    def counted(self: Trainer, step: int, keeper: Any) -> Any:
        found.append(step)
        return once(self, step, keeper)

    monkeypatch.setattr(Trainer, "_step", counted)
    return found


WAYS: dict[str, dict[str, Any]] = {
    "lora": {"technique": "lora"},
    "lora with dropout and an average": {"technique": {"kind": "lora", "lora_dropout": 0.1}, "ema": 0.9},
    "full": {"technique": "full"},
    "classify": {"objective": "classify"},
    "a curriculum": {"curriculum": {"by": "tokens"}, "max_train_samples": 40},
    "spikes left out": {"on_loss_spike": "skip"},
}


@pytest.mark.matrix("lora with*", "classify")
@pytest.mark.parametrize("way", WAYS)
def test_it_ends_in_the_bytes_of_an_undisturbed_one(tmp_path: Path, way: str, steps: list[int]) -> None:
    calm, env = make_env(tmp_path / "calm"), make_env(tmp_path / "shop")
    settings = {**SETTINGS, **WAYS[way]}
    whole = files(calm, Tune(**settings))
    env.tune(Tune(**settings, **SHORT))
    assert states(env) == [5]
    steps.clear()
    assert files(env, Tune(**settings)) == whole
    assert steps[0] == 5
    assert states(env) == []  # a training that keeps none has used it


@pytest.mark.matrix("dpo")
@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_pairs_too_whose_reference_is_read_in_advance(tmp_path: Path, objective: Any, steps: list[int]) -> None:
    calm, env = (make_env(tmp_path / name, pairs(90)) for name in ("calm", "shop"))
    settings = {**SETTINGS, "objective": objective, "learning_rate": 1e-3, "batch_size": 8}
    whole = files(calm, Tune(**settings))
    env.tune(Tune(**settings, **SHORT))
    steps.clear()
    assert files(env, Tune(**settings)) == whole
    assert steps[0] == 5


@pytest.mark.matrix("best")
@pytest.mark.parametrize("keep", ["best", "last"])
def test_held_out_measurements_and_the_best_weights_come_along(tmp_path: Path, keep: str, steps: list[int]) -> None:
    held_out = {"rows": 8, "every": 2, "metric": "accuracy", "keep": keep, "patience": 20}
    settings = {**SETTINGS, "validation": held_out, "epochs": 1.2}
    calm, env = make_env(tmp_path / "calm"), make_env(tmp_path / "shop")
    whole = files(calm, Tune(**settings))
    env.tune(Tune(**settings, **SHORT))
    steps.clear()
    assert files(env, Tune(**settings)) == whole
    assert steps[0] == 5


def test_each_rung_goes_on_from_the_one_before_and_takes_its_place(tmp_path: Path, steps: list[int]) -> None:
    calm, env = make_env(tmp_path / "calm"), make_env(tmp_path / "shop")
    whole = Tune(**{**SETTINGS, "lr_scheduler": "auto", "warmup_steps": None, "decay": None})
    rows, done = len(examples()), []
    for share in (0.25, 0.5, 0.75):
        rung = whole.at_share(share, rows)
        undisturbed = files(calm, rung.model_copy(update={"keep_trunk": False}))
        steps.clear()
        assert {entry.digest for entry in env.tune(rung).manifest.files} == {*undisturbed.values()}
        done.append((steps[0], rung.max_steps, states(env)))
    assert done == [(0, 3, [1]), (1, 6, [4]), (4, 9, [7])]
    assert whole.at_share(1, rows) is whole


def test_a_constant_rate_is_a_trunk_to_its_last_step(tmp_path: Path, steps: list[int]) -> None:
    calm, env = make_env(tmp_path / "calm"), make_env(tmp_path / "shop")
    settings = {**SETTINGS, "lr_scheduler": "auto", "decay": None, "optimizer": "schedule_free"}
    whole = files(calm, Tune(**settings))
    env.tune(Tune(**settings, **SHORT))
    steps.clear()
    assert files(env, Tune(**settings)) == whole
    assert steps[0] == 6


def test_only_where_training_ends_may_differ(tmp_path: Path) -> None:
    env = make_env(tmp_path)

    def prefix(warmup_steps: int = 2, rate: float = 1e-2, seed: int = 3, **changed: Any) -> str:
        step = Tune(**{**SETTINGS, **changed})
        return digest_prefix(step, env.work(step, seed), rate, warmup_steps, reads_packs=False)

    same = prefix()
    assert prefix(max_steps=16, epochs=3, decay=0.1, save_steps=1, keep_trunk=True) == same
    assert prefix(lr_scheduler="constant", decay=None) == same
    left_out = {*ENDINGS, "batch_size", "privacy"}  # a private training has no trunk
    others = [
        prefix(warmup_steps=3),
        prefix(rate=2e-2),
        prefix(seed=4),
        *(prefix(**{name: value}) for name, value in TUNE_OTHERWISE.items() if name not in left_out),
        prefix(validation={"every": 2}),
        prefix(validation={"every": 3}),
        prefix(on_loss_spike="skip"),
        prefix(max_tokens_per_microbatch=4096),
    ]
    assert len({same, *others}) == 1 + len(others) > 12


SPOILERS: dict[str, Callable[[Path], object]] = {
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "a flipped byte": lambda path: path.write_bytes(
        (data := path.read_bytes())[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    ),
    "another's": lambda path: checkpoint._put(path, {}, {"key": "another", "step": "5"}),
    "of another step": lambda path: path.rename(path.with_name("4.safetensors")),
    "missing": lambda path: path.unlink(),
    "no file": lambda path: (path.unlink(), path.mkdir()),
}


def test_a_spoilt_state_is_made_anew(tmp_path: Path, steps: list[int]) -> None:
    calm, env = make_env(tmp_path / "calm"), make_env(tmp_path / "shop")
    whole = files(calm, Tune(**SETTINGS))
    for how, spoil in SPOILERS.items():
        shutil.rmtree(env.store.kept, ignore_errors=True)
        env.tune(Tune(**SETTINGS, **SHORT))
        (path,) = (env.store.kept / "states").glob("*/5.safetensors")
        spoil(path)
        steps.clear()
        assert files(env, Tune(**SETTINGS, keep_trunk=True)) == whole
        assert steps[0] == 0, how
        assert 9 in states(env), how


def test_a_state_that_was_computed_otherwise_is_not_taken(
    tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make_env(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("luthier.tune.run.count_cores", lambda: 1)
        env.tune(Tune(**SETTINGS, **SHORT))
        steps.clear()
        env.tune(Tune(**SETTINGS, keep_trunk=True))
        assert steps[0] == 5
    monkeypatch.setattr("luthier.tune.run.count_cores", lambda: 2)
    steps.clear()
    env.tune(Tune(**SETTINGS, epochs=1.2))
    assert steps[0] == 0


def test_interrupted_it_goes_on_from_its_own_state(tmp_path: Path, steps: list[int]) -> None:
    calm, env = make_env(tmp_path / "calm"), make_env(tmp_path / "shop")
    settings = {**SETTINGS, "save_steps": 2, "validation": {"rows": 8, "every": 3}, "epochs": 1.2}
    whole = files(calm, Tune(**settings))
    interrupted(env, Tune(**{**settings, **SHORT}), before=6)
    env.tune(Tune(**{**settings, **SHORT}))
    assert states(env) == [5]
    interrupted(env, Tune(**settings), before=9)
    assert states(env) == [5]
    steps.clear()
    assert files(env, Tune(**settings)) == whole
    assert steps[0] == 8
    assert states(env) == []


def test_where_there_is_no_room_the_state_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    env = make_env(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(trunk_states, "SHARE_OF_DISK", 0.0)
        env.tune(Tune(**SETTINGS, **SHORT))
    assert states(env) == []
    assert any("is not kept: its" in said for said in env.said("note"))

    def full(path: Path) -> None:
        if "states" in path.parts:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    env.tune(Tune(**{**SETTINGS, **SHORT, "max_steps": 6}))
    assert states(env) == []
    assert any("could not be kept" in said and "disk is full" in said for said in env.said("note"))


def test_states_that_were_used_longest_ago_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(tmp_path)
    for seed in (1, 2, 3):
        env.tune(Tune(**SETTINGS, **SHORT), seed)
    found = sorted((path.stat().st_mtime, path) for path in (env.store.kept / "states").glob("*/*"))
    size = found[0][1].stat().st_size
    usage = type("Usage", (), {"free": 5 * size})
    monkeypatch.setattr(trunk_states.shutil, "disk_usage", lambda path: usage)  # of eight files' size, three and a bit
    monkeypatch.setattr(trunk_states, "SHARE_OF_DISK", 0.4)
    env.tune(Tune(**SETTINGS, **SHORT), 4)
    left = set((env.store.kept / "states").glob("*/*"))
    assert found[0][1] not in left
    assert len(left) == 3


def test_a_lost_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Any, state: Any) -> None:
        raise SystemResourceError("cannot be written")

    env = make_env(tmp_path)
    monkeypatch.setattr(checkpoint.CheckpointManager, "write", gone)
    env.tune(Tune(**SETTINGS, **SHORT))
    assert any("could not be kept: cannot be written" in said for said in env.said("note"))


CHILD = """
import sys, time
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
from tuning import reopened
from luthier.tune.training import parallel
from luthier.tune.training.trainer import Trainer
from luthier.tune.steps.tune import Tune
parallel.LEAST_TOKENS, parallel.WORTH = 1, 1.0
once = Trainer._step
def slow(self, number, keeper):
    time.sleep(0.05)
    print("step", number, self._lanes.count, flush=True)
    return once(self, number, keeper)
Trainer._step = slow
whole = Tune(data="data", technique=sys.argv[3], batch_size=4, epochs=2, dtype="bfloat16", learning_rate=1e-2,
             save_steps=3, ema=0.9, validation={"rows": 8, "every": 2, "metric": "accuracy"})
shop = reopened(Path(sys.argv[1]))
for share in map(float, sys.argv[4:]):
    rung = whole.at_share(share, 40)
    if not shop.store.has(shop.tune_digest(rung)):
        shop.tune(rung)
"""


def child(root: Path, technique: str, lanes: int, *shares: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-W", "ignore", "-c", CHILD, str(root), str(Path(__file__).parents[1]), technique]
    return subprocess.Popen(
        [*arguments, *map(str, shares)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(lanes)},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("technique", "lanes"), [("lora", 1), ("lora", 2), ("full", 2)])
def test_killed_at_random_moments_the_rungs_end_in_the_same_bytes(tmp_path: Path, technique: str, lanes: int) -> None:
    shares, chance, kills = (0.3, 0.6, 0.9), random.Random(technique), 0
    make_env(tmp_path / "wild")
    while True:
        with child(tmp_path / "wild", technique, lanes, *shares) as process:
            assert process.stdout is not None
            if process.stdout.readline() and kills < 5:
                time.sleep(chance.random())
                process.kill()
            process.communicate()
            if process.returncode == 0:
                break
        kills += 1
        assert kills < 24
    assert kills >= 3
    ends = []
    for share in shares:  # each alone, from its beginning
        make_env(tmp_path / str(share))
        with child(tmp_path / str(share), technique, lanes, share) as process:
            said, _ = process.communicate()
            assert process.returncode == 0
            assert {line.split()[-1] for line in said.splitlines() if line.startswith("step")} == {str(lanes)}
        ends += _ends(tmp_path / str(share))
    assert sorted(_ends(tmp_path / "wild")) == sorted(ends)
    assert states(reopened(tmp_path / "wild")) == [14]


def _ends(root: Path) -> list[list[tuple[str, str]]]:
    """Digests of the files of each training there."""
    store = reopened(root).store
    made = [store.open(digest) for digest in store.digests()]
    return [
        sorted((entry.path, entry.digest) for entry in one.manifest.files)
        for one in made
        if one.manifest.kind == "tune"
    ]


@pytest.mark.parametrize("max_steps", [1, 5, 9, 40])
def test_the_order_of_rows_does_not_depend_on_where_training_ends(max_steps: int) -> None:
    whole = BatchSampler(seed=1, count=13, epochs=3, batch_size=5)
    short = BatchSampler(seed=1, count=13, epochs=3, batch_size=5, max_steps=max_steps)
    assert short.steps == min(8, max_steps)
    assert [short.get_batch_indices(at) for at in range(short.steps)] == [
        whole.get_batch_indices(at) for at in range(short.steps)
    ]


def test_training_ends_after_max_steps_or_with_its_epochs(tmp_path: Path, steps: list[int]) -> None:
    env = make_env(tmp_path)
    env.tune(Tune(data="data", batch_size=8, max_steps=4, learning_rate=1e-2, dtype="float32"))
    assert steps == [0, 1, 2, 3]
    steps.clear()
    env.tune(Tune(data="data", batch_size=8, max_steps=40, learning_rate=1e-2, dtype="float32"))
    assert steps == [0, 1, 2, 3, 4, 5]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"warmup_steps": 3, "warmup_ratio": 0.1}, "stands in place of warmup_ratio"),
    ({"keep_trunk": True}, "keep_trunk changes nothing here: under `lr_scheduler: linear`"),
    ({**SETTINGS, "keep_trunk": True, "validation": {}}, "give a number of steps"),
    ({**SETTINGS, "keep_trunk": True, "epochs": 2, "save_epochs": 1}, "save_epochs keeps weights"),
    ({**SETTINGS, "keep_trunk": True, "resume_from": "x"}, "begins as no other does"),
    (
        {**SETTINGS, "keep_trunk": True, "objective": {"kind": "rloo", "rewards": [{"kind": "regex", "pattern": "e"}]}},
        "which answers the log of rloo shows",
    ),
    ({"technique": "plain", "max_steps": 3}, "max_steps changes nothing under plain"),
    ({"technique": "plain", "warmup_steps": 3}, "warmup_steps changes nothing under plain"),
    ({"technique": "prompt_search", "keep_trunk": True}, "keep_trunk changes nothing"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED)
def test_what_changes_nothing_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Tune(**{"data": "data", **fields})


def test_a_share_of_a_training() -> None:
    step = Tune(data="data", batch_size=10, epochs=2, validation={"every": 0.1}, save_epochs=1, decay=None)
    assert step.count_steps(1000) == 200
    short = step.at_share(0.25, 1000)
    assert short.count_steps(1000) == short.max_steps == 50
    assert (short.lr_scheduler, short.warmup_steps, short.keep_trunk, short.save_epochs) == ("wsd", 6, True, 0)
    assert short.validation is not None
    assert short.validation.every == 20
    assert Tune.model_validate(short.settings()) == short
    assert step.model_copy(update={"max_train_samples": 100}).count_steps(1000) == 20
    assert short.at_share(0.5, 1000).max_steps == 25
    policy = Tune(data="data", objective={"kind": "rloo", "rewards": [{"kind": "regex", "pattern": "e"}]}).at_share(
        0.5, 1000
    )
    assert (policy.max_steps, policy.keep_trunk) == (16, False)
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match="a share is above 0 and at most 1"):
            step.at_share(share, 10)


def test_a_share_without_steps_is_one_of_rows_or_of_the_budget() -> None:
    plain = Tune(data="data", technique="plain")
    assert plain.count_steps(100) == 0
    assert plain.at_share(0.25, 100).max_train_samples == 25
    assert plain.model_copy(update={"max_train_samples": 40}).at_share(0.25, 100).max_train_samples == 10
    search = Tune(data="data", technique="prompt_search")
    smaller = search.at_share(0.5, 100)
    assert smaller.max_train_samples is None
    assert smaller.technique.settings() == {**search.technique.settings(), "budget": 1000}
    least = search.at_share(0.01, 100).technique.settings()
    assert (least["budget"], least["held_back"]) == (20, 10)
