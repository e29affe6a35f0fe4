"""What a training is estimated to take on this machine, beside what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.step import PlanContext
from luthier.models import machine_cost
from luthier.tune.steps.tune import Tune
from tuning import bench, examples


def test_a_training_takes_what_a_shorter_one_here_lets_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 15 % of its processors' time, which other programs of the machine touch least; the best of three."""
    shop = bench(tmp_path, examples(96))
    short, long = (Tune(data="data", epochs=epochs) for epochs in (6.0, 18.0))
    context = PlanContext(inputs={"data": shop.data, "model": shop.base}, upstream={}, recipe_dir=tmp_path)
    short.make(shop.work(short))  # compiles kernels
    errors = []
    for seed in (1, 2, 3):
        before, after = (step.make(shop.work(step, seed)) for step in (short, long))
        known = {"parameters": before["parameters"], "flops_per_s": before["flops_per_cpu_s"]}
        monkeypatch.setattr(machine_cost, "read_machine_timings", lambda kind, known=known: [known])
        workload = long.describe_training(context)
        assert workload is not None
        estimate = machine_cost.estimate_on(workload._replace(start_seconds=0.0), "cpu", 1)
        taken = after["train_s"] * after["flops_per_s"] / after["flops_per_cpu_s"]
        errors.append(abs(estimate.seconds / taken - 1))
    assert min(errors) < 0.15, errors
