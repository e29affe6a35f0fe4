"""What a training is estimated to take on this machine, beside what it took."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.step import PlanContext
from luthier.models import machine_cost
from luthier.tune.steps.tune import Tune
from tuning import examples, make_env


@pytest.mark.slow
def test_a_training_takes_what_a_shorter_one_here_lets_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work within 15 % of what the training counts; the seconds are that work at the measured speed."""
    env = make_env(tmp_path, examples(96))
    short, long = (Tune(data="data", epochs=epochs) for epochs in (6.0, 18.0))
    context = PlanContext(inputs={"data": env.data, "model": env.base}, upstream={}, recipe_dir=tmp_path)
    before, after = (step.make(env.work(step)) for step in (short, long))
    known = {"parameters": before["parameters"], "flops_per_s": 1e9}
    monkeypatch.setattr(machine_cost, "read_machine_timings", lambda kind: [known])
    workload = long.describe_training(context)
    assert workload is not None
    estimate = machine_cost.estimate_on(workload._replace(start_seconds=0.0), "cpu", 1)
    taken = after["train_s"] * after["flops_per_s"]
    assert estimate.seconds * 1e9 == pytest.approx(taken, rel=0.15)
