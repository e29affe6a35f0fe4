"""A running average of the weights: what is saved and measured, while training itself goes on unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.trainer import ExponentialMovingAverage, Trainer, use_weights
from tuning import make_env

QUICK = {"data": "data", "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32"}


def test_the_average_follows_as_the_formula_says() -> None:
    weights = [torch.tensor([float(at)]) for at in range(40)]
    average = ExponentialMovingAverage({"w": weights[0]}, 0.75)
    expected = 0.0
    for step in range(1, 40):
        average.follow({"w": weights[step]}, step)
        decay = min(0.75, step / (step + 9))
        expected = decay * expected + (1 - decay) * float(weights[step])
    assert float(average.values["w"]) == pytest.approx(expected)
    assert float(weights[0]) == 0.0


def test_other_weights_stand_in_for_a_while() -> None:
    model = torch.nn.Linear(2, 1, dtype=torch.bfloat16)
    before = model.weight.detach().clone()
    with use_weights(model, {"weight": torch.full((1, 2), 3.0)}):
        assert torch.equal(model.weight, torch.full((1, 2), 3.0, dtype=torch.bfloat16))
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("technique", [Lora(r=4), FullFineTuning()], ids=["lora", "full"])
def test_the_average_is_saved_and_learning_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, technique: Lora | FullFineTuning
) -> None:
    env = make_env(tmp_path)
    models: list[Any] = []
    settle = Trainer._load_final_weights

    def watched(self: Trainer, keeper: Any) -> None:
        last = {name: value.clone() for name, value in self._updater.weights().items()}
        settle(self, keeper)
        models.append((last, dict(self._model.named_parameters()), self._average))

    monkeypatch.setattr(Trainer, "_load_final_weights", watched)
    plain = env.tune(Tune(**QUICK, technique=technique))
    made = env.tune(Tune(**QUICK, technique=technique, ema=0.8))
    assert (plain.folder / "log.jsonl").read_bytes() == (made.folder / "log.jsonl").read_bytes()
    (last, _, _), (same, saved, average) = models
    assert all(torch.equal(last[name], same[name]) for name in last)
    assert all(torch.equal(saved[name], value) for name, value in average.values.items())
    assert any((saved[name] - last[name]).abs().max() > 1e-4 for name in last)
    assert json.loads((made.folder / "training.json").read_text())["held_out"] is None
