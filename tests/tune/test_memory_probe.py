"""The largest pack runs first, without a trace; when it does not fit, packs become smaller, and that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models.packing.pack import Pack
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.training import pack_gradient
from luthier.tune.training.memory import find_largest_packs, probe_memory
from luthier.tune.training.trainer import Trainer
from tuning import TuneEnv, interrupted, make_env

QUICK = {"data": "data", "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32", "technique": Lora(r=4)}
NO_MEMORY = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def bounded(monkeypatch: pytest.MonkeyPatch, most: int, error: type[Exception] = RuntimeError) -> list[Pack]:
    read: list[Pack] = []
    logprobs = pack_gradient.compute_pack_logprobs

    def small(model: Any, pack: Pack, **more: Any) -> torch.Tensor:
        if pack.tokens > most:
            raise error(NO_MEMORY)
        read.append(pack)
        return logprobs(model, pack, **more)

    monkeypatch.setattr(pack_gradient, "compute_pack_logprobs", small)
    return read


def test_the_largest_pack_comes_first_and_leaves_no_trace(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    read = bounded(monkeypatch, 1 << 20)
    step = Tune(**{**QUICK, "technique": Lora(r=4, lora_dropout=0.2)}, max_tokens_per_microbatch=150)
    made = env.tune(step)
    assert read[0].tokens == max(pack.tokens for pack in read)
    monkeypatch.setattr(Trainer, "_probe_memory", lambda self, say: None)
    env.store.remove(env.tune_digest(step))
    bare = env.tune(step)
    for name in ("log.jsonl", "adapter/adapter_model.safetensors"):
        assert (made.folder / name).read_bytes() == (bare.folder / name).read_bytes()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_what_does_not_fit_is_halved_and_said(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    read = bounded(monkeypatch, 120, error)
    made = env.tune(Tune(**QUICK), seed=7 if error is MemoryError else 8)
    assert all(pack.tokens <= 120 for pack in read)
    losses = [json.loads(line)["loss"] for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert any("max_tokens_per_microbatch was lowered to" in said for said in env.said("note"))


def test_a_single_row_that_does_not_fit_is_an_error(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded(monkeypatch, 10)
    with pytest.raises(ModelError, match=r"the \d+ tokens of example \w+ do not fit into memory") as caught:
        env.tune(Tune(**QUICK), seed=9)
    assert "max_length" in caught.value.hint


def test_other_errors_are_not_taken_for_a_lack_of_memory(env: TuneEnv) -> None:
    def broken(beside: tuple[Pack, ...]) -> None:
        raise RuntimeError("shapes do not match")

    class Dataset:
        sizes = torch.tensor([3]).numpy()

        def rows(self, number: int) -> list[Any]:
            from luthier.models.packing.pack import TokenRow

            return [TokenRow([1, 2, 3], [0.0, 1.0, 1.0], "a")]

    from luthier.tune.training.schedule import BatchSampler

    sampler = BatchSampler(seed=0, count=1, epochs=1, batch_size=1)
    with pytest.raises(RuntimeError, match="shapes"):
        probe_memory(lambda tokens, lanes: find_largest_packs(Dataset(), sampler, tokens, lanes), 100, 1, broken)


def test_a_resumed_training_keeps_what_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(tmp_path)
    step = Tune(**QUICK, save_steps=1)
    bounded(monkeypatch, 120)
    whole = {entry.path: entry.digest for entry in env.tune(step).manifest.files}
    env.store.remove(env.tune_digest(step))
    interrupted(env, step)
    monkeypatch.undo()  # now there is memory
    assert {entry.path: entry.digest for entry in env.tune(step).manifest.files} == whole
