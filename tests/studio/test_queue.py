"""Runs of the studio: one after another, each in a process of its own, whatever becomes of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luthier.commands.projects.queue import QueuedRun, QueueRunner, RunQueue
from luthier.commands.projects.run_log import RunLog
from luthier.core.db import Ledger
from luthier.core.errors import InputError, UnknownName
from luthier.core.events import RunEvent
from luthier.core.render import LogFileRenderer
from luthier.core.store import Store
from luthier.recipe.launches import end_launch, record_launch
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace

RECIPE = """\
luthier: 1
name: rows
steps:
  data:
    kind: prepare
    source: {kind: csv, path: rows.csv, prompt: text, answer: label}
    ops: [normalize]
    split: {test: 0.2}
    task: label
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunQueue]:
    monkeypatch.chdir(tmp_path)
    for name in ("LUTHIER_STORE", "LUTHIER_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/recipe.yaml").write_text(RECIPE)
    rows = "".join(f"text number {at} of many,{'yes' if at % 2 else 'no'}\n" for at in range(60))
    (tmp_path / "rows/rows.csv").write_text("text,label\n" + rows)
    with Ledger(tmp_path / "queue.db") as ledger:
        yield RunQueue(ledger)


def _runner(queue: RunQueue) -> QueueRunner:
    return QueueRunner(queue, Workspace.open(Path().absolute()), Path("kept"))


def follow(queue: RunQueue, runner: QueueRunner, run: QueuedRun, until: Callable[[QueuedRun], bool]) -> QueuedRun:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        runner.advance()
        if until(found := queue.get(run.id)):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not so after two minutes: {queue.get(run.id)}")


def test_a_run_goes_from_the_queue_to_its_artifacts(queue: RunQueue) -> None:
    runner = _runner(queue)
    run = queue.add(Path("rows/recipe.yaml"))
    assert queue.add(Path("rows/recipe.yaml")).id == run.id, "the same run is not queued twice"
    done = follow(queue, runner, run, lambda one: one.ended)
    assert (done.state, done.exit_code, done.error) == ("done", 0, None)
    assert done.run is not None
    log = RunLog(Path("rows/.luthier/runs") / f"{done.run}.jsonl")
    assert log.advance()
    assert log.steps["data"].state == "done"
    assert not log.advance()
    runner.close()


def test_a_restarted_server_goes_on_with_the_run_that_is_under_way(queue: RunQueue) -> None:
    first, second = _runner(queue), _runner(queue)
    run = queue.add(Path("rows/recipe.yaml"))
    follow(queue, first, run, lambda one: one.state == "running")
    second.advance()
    assert queue.get(run.id).state == "running", "the other server has the queue"
    first.close()
    assert follow(queue, second, run, lambda one: one.ended).state == "done"
    second.close()
    assert all(process.over for process in first._processes.values()), "else Python warns of a child never waited for"


def test_what_is_wrong_with_a_recipe_is_said(queue: RunQueue) -> None:
    Path("rows/recipe.yaml").write_text(RECIPE.replace("normalize", "normalise_it_all"))
    runner = _runner(queue)
    failed = follow(queue, runner, queue.add(Path("rows/recipe.yaml")), lambda one: one.ended)
    assert failed.state == "failed"
    assert "normalise_it_all" in failed.message
    runner.close()


def test_a_run_is_stopped_and_gone_on_with(queue: RunQueue) -> None:
    runner = _runner(queue)
    run, waiting = queue.add(Path("rows/recipe.yaml")), queue.add(Path("rows/recipe.yaml"), ["seed=3"])
    follow(queue, runner, run, lambda one: one.state == "running")
    with pytest.raises(InputError, match="not over"):
        queue.again(run.id)
    assert queue.stop(waiting.id).state == "cancelled"
    queue.stop(run.id)
    stopped = follow(queue, runner, run, lambda one: one.ended)
    assert stopped.state in ("interrupted", "done"), "it may have been quicker"
    again = queue.again(run.id)
    assert again.id != run.id
    assert follow(queue, runner, again, lambda one: one.ended).state == "done"
    runner.close()


def test_those_that_wait_change_places(queue: RunQueue) -> None:
    runs = [queue.add(Path("rows/recipe.yaml"), [f"seed={seed}"]).id for seed in range(3)]
    queue.move(runs[2], "up")
    assert [run.id for run in queue.all(("queued",))] == [runs[0], runs[2], runs[1]]
    queue.move(runs[0], "up")
    assert queue.all()[0].id == runs[0]
    with pytest.raises(UnknownName):
        queue.stop("../../etc/passwd")


def test_a_log_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log = RunLog(path)
    assert not log.advance()
    with LogFileRenderer(path) as writer:
        writer(RunEvent(kind="start", step="tune", text="tune", at=10))
        writer(RunEvent(kind="note", step="tune", text="will take about 9 s", at=11))
        for done in range(1, 6):
            writer(RunEvent(kind="progress", step="tune", done=done, total=10, unit="rows", at=10.0 + done,
                            measures={"loss": 1 / done, "phase": "a"}))  # fmt: skip
        assert log.advance()
        step = log.steps["tune"]
        assert (step.share, step.expected, step.left) == (0.5, "about 9 s", "5.0 s")
        assert step.shown_curves == {"loss": [(done, 1 / done) for done in range(1, 6)]}
        writer(RunEvent(kind="warning", text="odd", at=16))
        writer(RunEvent(kind="done", step="tune", at=20))
        with path.open("ab") as file:
            file.write(b'{"kind": "no')
        assert log.advance()
        assert (step.state, step.seconds) == ("done", 10)
        assert not step.total, "5 of 10 rows would be said of a step that is done"
        assert [line.level for line in log.lines] == ["info", "info", "warning", "info"]


def test_a_run_and_a_fine_tuning_job_take_turns(queue: RunQueue, tmp_path: Path) -> None:
    from luthier.commands.jobs.records import JobRequest
    from luthier.commands.jobs.registry import JobRepository
    from luthier.core.system.process import get_unique_process_name

    jobs = JobRepository(queue._ledger)
    jobs.add(None, JobRequest(model="m", training_file="file-x"), "ftjob-1")
    assert [job.id for job in queue.jobs()] == ["ftjob-1"]
    runner = _runner(queue)
    jobs.change("ftjob-1", "running", ("validating_files",), process=get_unique_process_name())
    run = queue.add(Path("rows/recipe.yaml"))
    runner.advance()
    assert queue.get(run.id).state == "queued", "the job has the machine"
    text = "luthier: 1\nname: ftjob-1\nsteps:\n  data: {kind: prepare, source: {kind: csv, path: a.csv}}\n"
    (tmp_path / "job.yaml").write_text(text)
    recipe = Recipe.load(tmp_path / "job.yaml")
    names = {"executor": "slurm", "job": "luthier-0", "step": "tune", "artifact": "a" * 32}
    record_launch(queue._ledger, recipe, store=Store(tmp_path), **names)
    assert not queue.is_job_running(), "it waits for a cluster"
    end_launch(queue._ledger, "luthier-0", "done")
    assert queue.is_job_running()
    jobs.change("ftjob-1", "succeeded", ("running",))
    follow(queue, runner, run, lambda one: one.state == "running")
    assert queue.is_run_under_way()
    follow(queue, runner, run, lambda one: one.ended)
    assert not queue.is_run_under_way()
    runner.close()


def test_a_child_of_a_step_is_shown_while_it_runs(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.jsonl")
    with LogFileRenderer(tmp_path / "run.jsonl") as writer:
        writer(RunEvent(kind="start", step="best", text="search", at=14))
        writer(RunEvent(kind="start", step="best.3-tune", text="tune", at=15))
        assert log.advance()
        assert set(log.steps) == {"best", "best.3-tune"}
        writer(RunEvent(kind="done", step="best.3-tune", at=16))
        assert log.advance()
        assert set(log.steps) == {"best"}
