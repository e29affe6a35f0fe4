"""Where a step's rows come from: stored examples, or whatever another source draws; the loop asks and obeys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from luthier.tune import objective
from luthier.tune.objective import PreparedBatchSource, TrainingBatch
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from tuning import TuneEnv, make_env

QUICK = {"data": "data", "batch_size": 12, "learning_rate": 1e-2, "dtype": "float32", "technique": Lora(r=4)}


class Moody(PreparedBatchSource):
    """Has nothing for the second step, and ends training after the third."""

    def draw(self, step: int) -> TrainingBatch:
        drawn = super().draw(step)
        drawn = drawn._replace(measures={"mood": 0.5 * step}, samples=({"text": f"at {step}"},) if step == 2 else ())
        return drawn._replace(rows=[], nothing="no mood for it") if step == 1 else drawn

    def record_step(self, record: Mapping[str, Any]) -> str:
        return "had enough" if record["step"] == 3 else ""


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    return make_env(tmp_path)


def lines(env: TuneEnv) -> list[dict[str, Any]]:
    made = env.tune(Tune(**QUICK))
    return [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]


def test_the_loop_leaves_out_what_is_nothing_and_stops_when_told(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = lines(env)
    assert len(calm) == 4
    env.store.remove(env.tune_digest(Tune(**QUICK)))
    monkeypatch.setattr(objective, "PreparedBatchSource", Moody)
    told = lines(env)
    assert [line.get("skipped", "") for line in told] == ["", "no mood for it", ""]
    assert [line["mood"] for line in told] == [0.0, 0.5, 1.0]
    assert told[0]["loss"] == calm[0]["loss"]
    assert told[1]["grad_norm"] == 0.0
    assert told[2]["samples"] == [{"text": "at 2"}]
    assert any("stopped after step 3: had enough" in said for said in env.said("note"))


def test_checkpoints_wait_until_a_training_can_be_taken_up(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.tune.training.checkpoint import CheckpointManager, TrainingState

    class Phased(PreparedBatchSource):
        def can_resume_at(self, step: int) -> bool:
            return step % 2 == 0

    kept: list[int] = []
    write = CheckpointManager.write

    def counted(self: CheckpointManager, state: TrainingState) -> None:
        kept.append(state.step)
        write(self, state)

    monkeypatch.setattr(CheckpointManager, "write", counted)
    monkeypatch.setattr(objective, "PreparedBatchSource", Phased)
    env.tune(Tune(**QUICK, save_steps=1))
    assert kept == [2]
