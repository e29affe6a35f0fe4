"""Losses that are not numbers or are spikes: noise is neither, and each stops, is left out, or passes as asked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest

from luthier.core.errors import ModelError
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.loss_spikes import FIRST, compute_spike_threshold, diagnose_step
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer
from luthier.tune.training.trainer import Trainer
from tuning import make_env

SETTINGS = {"data": "data", "batch_size": 2, "learning_rate": 1e-2, "dtype": "float32", "epochs": 2}
NOISES: dict[str, Callable[[random.Random, float], float]] = {
    "gaussian": lambda chance, level: max(0.0, chance.gauss(level, 0.3 * level)),
    "exponential": lambda chance, level: chance.expovariate(1 / level),
    "rare hard rows": lambda chance, level: 3 * level if chance.random() < 0.01 else 0.01 * level,
}


@pytest.mark.parametrize("kind", NOISES)
def test_ordinary_noise_is_no_spike(kind: str) -> None:
    for seed in range(5):
        chance, losses = random.Random(seed), list[float]()
        for step in range(600):
            loss = 3.0 * (1 - step / 700) + NOISES[kind](chance, 2.0)
            assert not diagnose_step(loss, 1.0, losses, 10.0), step
            losses.append(loss)


def test_a_spike_is_what_stands_far_above_everything_before() -> None:
    losses = [2.0 + 0.1 * (at % 3) for at in range(60)]
    assert diagnose_step(10.0, 1.0, losses, 10.0) == "loss 10, above 6.6"
    assert not diagnose_step(10.0, 1.0, losses, None)
    assert not diagnose_step(10.0, 1.0, losses[: FIRST - 1], 10.0)
    assert diagnose_step(6.7, 1.0, losses, 10.0)
    assert not diagnose_step(6.7, 1.0, losses, 40.0)
    assert diagnose_step(float("nan"), 1.0, losses, None) == "loss nan"
    assert diagnose_step(1.0, float("inf"), losses, None) == "gradient norm inf"
    assert compute_spike_threshold(losses, 10.0) == pytest.approx(6.6)


def spiking(monkeypatch: pytest.MonkeyPatch, at: set[int], loss: float = 100.0) -> list[str]:
    """Let the last example of some steps have a high loss; returns the ids of these as they come."""
    gradient, worst = Trainer.gradient, list[str]()

    def spiked(self: Trainer, rows: Any, denominator: float, step: int = 0) -> Any:
        found = gradient(self, rows, denominator, step)
        if step not in at:
            return found
        worst.append(rows[-1].key)
        return found._replace(loss=loss, example_losses={**found.example_losses, rows[-1].key: loss})

    monkeypatch.setattr(Trainer, "gradient", spiked)
    return worst


def test_a_spike_stops_and_another_training_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(tmp_path)
    step = Tune(**SETTINGS, technique=Lora(r=4), ema=0.9)
    with monkeypatch.context() as patch:
        worst = spiking(patch, {40})
        with pytest.raises(ModelError, match=r"diverged at step 41: loss 100, above .*, on examples") as caught:
            env.tune(step)
    kept = Path(str(caught.value.where.file))
    assert f"`resume_from: {kept}`" in caught.value.hint
    lower = step.model_copy(update={"learning_rate": 1e-3, "resume_from": str(kept)})
    assert lower.fingerprint(tmp_path) is not None
    assert lower.contents(tmp_path).keys() == {"step.tune.0"}
    assert f"on examples {worst[0]}" in caught.value.message  # the one that adds most comes first
    steps: list[int] = []
    once = Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda self, at, keeper: (steps.append(at), once(self, at, keeper))[1])
    made = env.tune(lower)
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(40, 48))
    assert [line["step"] for line in lines] == list(range(1, 49))
    assert lines[40]["lr"] == pytest.approx(lines[39]["lr"] / 10, rel=0.2)
    wrong = lower.model_copy(update={"technique": Lora(r=8)})
    with pytest.raises(ModelError, match="is no state that a training with this technique"):
        env.tune(wrong)


def test_a_spike_may_be_left_out_or_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(tmp_path)
    spiking(monkeypatch, {40, 42})
    made = env.tune(Tune(**SETTINGS, technique=Lora(r=4), on_loss_spike="skip"))
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "skipped" in line] == [41, 43]
    assert polars.read_parquet(made.folder / "training_examples.parquet")["seen"].sum() == 92
    assert any("step 41 was left out: loss 100, above" in said for said in env.said("warning"))
    passed = env.tune(Tune(**SETTINGS, technique=Lora(r=4), on_loss_spike="off"))
    assert "skipped" not in (passed.folder / "log.jsonl").read_text()


def test_a_step_that_is_left_out_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(tmp_path)
    spiking(monkeypatch, {2}, float("nan"))
    moves: list[float] = []
    update = MixedPrecisionOptimizer.update

    def watched(self: MixedPrecisionOptimizer, rate: float, norm: float) -> None:
        moves.append(self.norm() / norm)
        update(self, rate, norm)

    monkeypatch.setattr(MixedPrecisionOptimizer, "update", watched)
    made = env.tune(Tune(**SETTINGS, technique=Lora(r=4), on_loss_spike="skip", max_train_samples=12))
    assert moves == [1.0] * 11
    line = json.loads((made.folder / "log.jsonl").read_text().splitlines()[2])
    assert line["loss"] is None
    assert line["skipped"].startswith("loss nan, on examples")


def test_what_goes_wrong_again_and_again_stops_all_the_same(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    wild = {**SETTINGS, "learning_rate": 1e30, "max_grad_norm": None, "warmup_ratio": 0}
    with pytest.raises(ModelError, match=r"diverged at step 1\d: (loss|gradient norm) (nan|inf)"):
        env.tune(Tune(**wild, technique=FullFineTuning(), on_loss_spike="skip"))
