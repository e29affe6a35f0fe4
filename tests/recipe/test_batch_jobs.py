"""A run follows its job whatever its scheduler does: one that does not answer, and one that loses an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import SystemResourceError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.recipe import batch
from luthier.recipe.batch import BatchJob, JobStatus, make_task_step
from luthier.recipe.executor import Placement, StepTask
from luthier.recipe.executors.slurm import SlurmExecutor
from luthier.recipe.runner import run_recipe
from luthier.recipe.scheduler_api import SchedulerTimeoutError
from luthier.recipe.schema import Recipe
from tests.tiny_models import small_recipe


class Scheduler:
    """What a scheduler does with jobs: it makes them at once, and then answers as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
        self.submitted = 0
        self._answers = iter(answers)
        monkeypatch.setattr(SlurmExecutor, "submit", lambda executor, job: self.submit(job))
        monkeypatch.setattr(SlurmExecutor, "find", lambda executor, name: self.answer())
        monkeypatch.setattr(SlurmExecutor, "cancel_job", lambda executor, name: None)

    def submit(self, job: BatchJob) -> None:
        self.submitted += 1
        self.task = StepTask.model_validate_json(job.task)
        self.answer()

    def answer(self) -> JobStatus | None:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        if answer == "makes":
            make_task_step(self.task)
            return JobStatus("running")
        return answer  # type: ignore[no-any-return]  # a status, or None


def run(folder: Path) -> list[RunEvent]:
    """Run the data step by the scheduler; what is heard."""
    heard: list[RunEvent] = []
    recipe = Recipe.load(small_recipe(folder))
    placement = Placement(by_step={"data": SlurmExecutor(poll_s=0.01, grace_s=0.3)})
    made = run_recipe(recipe, RunEventEmitter(heard.append), ["data"], placement=placement)
    assert made["data"].artifact.check()
    return heard


def test_a_scheduler_that_does_not_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = SystemResourceError("squeue said nothing for 60 s")
    scheduler = Scheduler(monkeypatch, None, None, silent, silent, "makes")
    waits = [event.text for event in run(tmp_path) if event.kind == "wait"]
    assert len(waits) == 1
    assert "squeue said nothing for 60 s" in waits[0]
    assert scheduler.submitted == 1


def test_a_scheduler_that_stays_silent_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PATIENCE_S", 0.05)
    silent = SystemResourceError("squeue said nothing for 60 s")
    Scheduler(monkeypatch, None, None, *[silent] * 1000)
    with pytest.raises(SystemResourceError, match="said nothing"):
        run(tmp_path)


def test_a_job_is_followed_whose_submission_was_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = SchedulerTimeoutError("sbatch said nothing for 60 s")
    scheduler = Scheduler(monkeypatch, None, lost, None, JobStatus("pending"), "makes")
    run(tmp_path)
    assert scheduler.submitted == 1


def test_a_submission_that_never_arrived_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Scheduler(monkeypatch, None, SchedulerTimeoutError("sbatch said nothing for 60 s"), *[None] * 1000)
    with pytest.raises(SchedulerTimeoutError, match="sbatch said nothing"):
        run(tmp_path)
