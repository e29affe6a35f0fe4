"""Jobs run as long as a server stands, as many at once as it may: files are checked, recipes made, what comes of them
served.

Of all servers over one store, one runs the jobs. A server that stops interrupts the runs, which keep their checkpoints;
one that is killed leaves runs that go on. The next server finds the jobs as the ledger has them, and goes on with them.
Where models are tuned on a cluster, a server that stops leaves the jobs there, and the next one follows them.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from luthier.commands.jobs.check import validate_training_file
from luthier.commands.jobs.journal import append_job_event
from luthier.commands.jobs.memory import estimate_recipe_memory, read_machine_memory
from luthier.commands.jobs.placement import JobPlacement
from luthier.commands.jobs.process import JobProcess, ProcessOutcome, export_merged_model, read_log_tail
from luthier.commands.jobs.records import FineTuningJob
from luthier.commands.jobs.service import JobService
from luthier.commands.jobs.tunable import TunableModel
from luthier.commands.jobs.writing import (
    EPOCH,
    RECIPE,
    TRAINING,
    TUNE,
    VALIDATION,
    JobTrainingData,
    build_served_model_name,
    checkpoint_name,
    resolve_auto_hyperparameters,
    write_job_recipe,
)
from luthier.commands.projects.queue import RunQueue
from luthier.core.errors import LuthierError
from luthier.core.files import translate_write_errors
from luthier.core.system.process import is_process_gone
from luthier.recipe.launches import end_launch, list_open_launches
from luthier.serve.openai.protocol import APIError
from luthier.traces import releases
from luthier.traces.releases import ReleasedModel

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger("luthier.jobs")
_EVERY_S = 0.2
_LOOK_S = 1.0
_CANCEL_LOOK_S = 5.0
_SWEEP_S = 600.0
_PATIENCE_S = 10.0
"""Seconds in which a run may end by itself after a stop signal."""
_CANCEL_S = 300.0
"""The same where a scheduler is involved."""
MOST_DEATHS = 3
"""A job whose process was killed more often is not tried again."""


@dataclass
class _RunningJob:
    """A job whose recipe is being made."""

    process: JobProcess
    memory: int
    """Bytes that it will take on this machine."""
    task: asyncio.Task[None] | None = None


class JobRunner:
    """Works through the jobs of a desk."""

    def __init__(
        self, service: JobService, released: Callable[[], Awaitable[None]], placement: JobPlacement | None = None
    ) -> None:
        """`released` is waited for when a model was released: then it is served."""
        self._service, self._released = service, released
        self._placement = placement or JobPlacement()
        self._runs = RunQueue(service.ledger)
        self._running: dict[str, _RunningJob] = {}
        self._not_cancelled = set[str]()
        """Jobs of which it was said that they cannot be ended."""
        self._away = False

    async def run(self) -> None:
        """Run jobs until cancelled; running ones are then interrupted, to be resumed."""
        lock = FileLock(self._place / ".lock", thread_local=False)
        try:
            while not self._alone(lock):
                await asyncio.sleep(_LOOK_S)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._again_and_again(self._check_next))
                tasks.create_task(self._again_and_again(self._run_next))
                tasks.create_task(self._again_and_again(self._cancel_left))
                tasks.create_task(self._again_and_again(self._sweep))
        finally:
            await self._interrupt()
            lock.release()

    @property
    def _place(self) -> Path:
        return self._service.store.root / "jobs"

    def _alone(self, lock: FileLock) -> bool:
        """Return whether this is the only server that runs jobs."""
        try:
            with translate_write_errors(self._place):
                self._place.mkdir(0o700, parents=True, exist_ok=True)
                lock.acquire(timeout=0)
        except Timeout:
            return False
        except LuthierError as error:
            self._warn(error)
            return False
        return True

    async def _again_and_again(self, work: Callable[[], Awaitable[float]]) -> None:
        """Repeat a task with the delay that it returns; while the ledger is unavailable, wait for it."""
        while True:
            try:
                wait_s = await work()
                self._away = False
            except LuthierError as error:
                self._warn(error)
                wait_s = _LOOK_S
            await asyncio.sleep(wait_s)

    def _warn(self, error: LuthierError) -> None:
        if not self._away:
            _LOG.warning("jobs wait: %s", error)
        self._away = True

    async def _sweep(self) -> float:
        await asyncio.to_thread(self._service.files.sweep)
        return _SWEEP_S

    # ── checking files ──────────────────────────────────────────────────────────────────────────────────────────

    async def _check_next(self) -> float:
        waiting = await asyncio.to_thread(self._service.book.everybody, states=("validating_files",))
        for job in reversed(waiting):
            await asyncio.to_thread(self._guarded, self._check, job)
        return _EVERY_S

    def _check(self, job: FineTuningJob) -> None:
        """Read a job's files, decide what was left open, write its recipe."""
        folder, request, book = self._service.folder(job.id), job.request, self._service.book
        training = folder / TRAINING
        rows = validate_training_file(training, request.method, "training_file")
        material = JobTrainingData(training, rows)
        if request.validation_file is not None:
            path = folder / VALIDATION
            count = validate_training_file(path, request.method, "validation_file").rows
            material = JobTrainingData(training, rows, path, count)
        settled = resolve_auto_hyperparameters(request, rows)
        if not book.change(job.id, "validating_files", ("validating_files",), settled=settled):
            return
        tunable = self._service.tunable.get(request.model) or self._going_on(job)
        if tunable is None:
            raise APIError(f"the model {request.model!r} cannot be tuned here any more", code="model_not_available")
        write_job_recipe(folder, book.any(job.id), tunable, material)
        if book.change(job.id, "queued", ("validating_files",)):
            append_job_event(folder, f"Files validated, moving job to queued state: {rows.rows} training rows")

    def _going_on(self, job: FineTuningJob) -> TunableModel | None:
        """Return an earlier job's model, as a base model in the folder of the continuing job."""
        earlier = self._service.earlier(job.key, job.request.model)
        if earlier is None:
            return None
        folder = self._service.folder(job.id)
        append_job_event(folder, f"Taking {job.request.model} as the base model")
        return TunableModel(job.request.model, str(export_merged_model(earlier, folder, self._service.store.location)))

    def _guarded(self, work: Callable[[FineTuningJob], Any], job: FineTuningJob) -> Any:
        """Do something for a job; what is wrong with it ends it, and only it."""
        try:
            return work(job)
        except APIError as error:
            self._fail(job, error.message, error.code or "invalid_request_error", error.param)
        except LuthierError as error:
            self._service.book.any(job.id)  # raises when it is the ledger that is away
            self._fail(job, f"{error.message}; {error.hint}" if error.hint else error.message, "job_failed", None)
        except Exception:  # noqa: BLE001  # one job's fault must not end the others
            _LOG.exception("%s failed", job.id)
            self._fail(job, "a fault of the server's own; its log says which", "server_error", None)
        return None

    def _fail(self, job: FineTuningJob, message: str, code: str, param: str | None) -> None:
        error = {"message": message, "code": code, "param": param}
        if self._service.book.change(job.id, "failed", ("validating_files", "queued", "running"), error=error):
            append_job_event(self._service.folder(job.id), f"The job failed: {message}", "failed")

    # ── running recipes ─────────────────────────────────────────────────────────────────────────────────────────

    async def _run_next(self) -> float:
        """Make the recipes of the jobs whose turn it is."""
        waiting = await asyncio.to_thread(self._service.book.everybody, states=("queued", "running"))
        for job in sorted(waiting, key=lambda job: (job.state != "running", job.made_at, job.id)):
            if job.id in self._running:
                continue
            memory: int | None = 0
            process = self._still_running(job)
            if process is None:
                if len(self._running) >= self._placement.limit:
                    break
                if (memory := await self._find_memory(job)) is None:
                    return _LOOK_S
                process = await asyncio.to_thread(self._guarded, self._start, job)
            if process is not None:
                self._running[job.id] = running = _RunningJob(process, memory or 0)
                running.task = asyncio.create_task(self._attend(job, process))
        return _EVERY_S

    async def _attend(self, job: FineTuningJob, process: JobProcess) -> None:
        """Follow a run to its end, and do what follows from that."""
        try:
            await self._follow(job, process)
            await self._ended(job, process)
        except LuthierError as error:
            self._warn(error)  # its turn comes again, and what was made is found
            await asyncio.sleep(_LOOK_S)
        self._running.pop(job.id, None)

    def _still_running(self, job: FineTuningJob) -> JobProcess | None:
        """The run that an earlier server left."""
        if job.state != "running" or job.process is None:
            return None
        running = JobProcess(self._service.folder(job.id), job.process)
        return None if running.over else running

    async def _find_memory(self, job: FineTuningJob) -> int | None:
        """The bytes that a job will take of this machine's memory; None where they are not free now, or where a run
        has the machine. A job that the machine never holds fails."""
        if not self._placement.is_elsewhere and await asyncio.to_thread(self._runs.is_run_under_way):
            return None
        recipe, placement = self._service.folder(job.id) / RECIPE, self._placement.placement
        needed: int | None = await asyncio.to_thread(
            self._guarded, lambda _: estimate_recipe_memory(recipe, placement), job
        )
        there = read_machine_memory()
        if needed is None or there is None:
            return needed
        whole, free = there
        promised = sum(running.memory for running in self._running.values())
        if needed > whole:
            what = f"it needs about {needed / 1e9:.1f} GB of memory; this machine has {whole / 1e9:.1f} GB"
            await asyncio.to_thread(self._fail, job, what, "insufficient_memory", None)
        elif needed > min(free, whole - promised):
            _LOG.info("%s waits for %.1f GB of memory", job.id, needed / 1e9)
        return needed if needed <= min(free, whole - promised) else None

    def _start(self, job: FineTuningJob) -> JobProcess | None:
        book, folder = self._service.book, self._service.folder(job.id)
        if not book.change(job.id, "running", ("queued", "running"), process=None):
            return None  # cancelled or paused meanwhile
        append_job_event(
            folder, "Fine-tuning job started" if job.state == "queued" else "The job goes on from its last checkpoint"
        )
        running = JobProcess.start(
            folder.absolute() / RECIPE, self._service.store.location, folder=folder, on=self._placement.words
        )
        if not book.change(job.id, "running", ("running",), process=running.name):
            running.tell(signal.SIGTERM)
        return running

    async def _follow(self, job: FineTuningJob, running: JobProcess) -> None:
        """Wait until a run has ended; stop it when the job is no longer to run."""
        looked = time.monotonic()
        stop_sent_at: float | None = None
        while not running.over:
            await asyncio.sleep(_EVERY_S)
            now = time.monotonic()
            if stop_sent_at is None and now - looked > _LOOK_S:
                looked = now
                if (await asyncio.to_thread(self._state, job)) not in (None, "running"):
                    stop_sent_at = now
                    running.tell(signal.SIGTERM)
            elif stop_sent_at is not None and now - stop_sent_at > self._patience_s:
                running.tell(signal.SIGKILL)

    @property
    def _patience_s(self) -> float:
        return _CANCEL_S if self._placement.is_elsewhere else _PATIENCE_S

    async def _cancel_left(self) -> float:
        """Cancel cluster jobs without a run that were cancelled or paused while there was no server."""
        if self._placement.is_elsewhere:
            for job in await asyncio.to_thread(self._service.book.everybody, states=("cancelled", "paused")):
                if job.process is not None and job.id not in self._running and is_process_gone(job.process):
                    await asyncio.to_thread(self._cancel_launches, job)
        return _CANCEL_LOOK_S

    def _cancel_launches(self, job: FineTuningJob) -> None:
        try:
            for launch in list_open_launches(self._service.ledger, self._service.folder(job.id)):
                self._placement.cancel(launch)
                end_launch(self._service.ledger, launch.job, "cancelled")
            self._service.book.forget_process(job)
        except LuthierError as error:
            if job.id not in self._not_cancelled:
                _LOG.warning("%s is %s, and goes on elsewhere: %s", job.id, job.state, error)
            self._not_cancelled.add(job.id)

    def _state(self, job: FineTuningJob) -> str | None:
        """A job's state; None while the ledger is away."""
        try:
            return self._service.book.any(job.id).state
        except LuthierError as error:
            self._warn(error)
            return None

    async def _ended(self, job: FineTuningJob, running: JobProcess) -> None:
        """Do what follows from how a run ended; while the ledger is away, later."""
        while (state := await asyncio.to_thread(self._state, job)) is None:
            await asyncio.sleep(_LOOK_S)
        if state != "running":
            return
        outcome = running.outcome()
        if outcome.artifacts is not None:
            made = outcome.artifacts
            await asyncio.to_thread(self._guarded, lambda tuning_job: self._release(tuning_job, made), job)
            await self._released()
            await asyncio.to_thread(self._guarded, self._succeed, job)
        else:
            await asyncio.to_thread(self._guarded, lambda tuning_job: self._lost(tuning_job, outcome), job)

    def _release(self, job: FineTuningJob, made: Mapping[str, str]) -> None:
        """From here on the job cannot be cancelled: its model is given its name, and those after epochs theirs."""
        from luthier.commands.jobs.results import trained_tokens, write_step_metrics_file

        digest = made[TUNE]
        book, model = self._service.book, self._service.store.open(digest)
        results = book.any(job.id).result_file or write_step_metrics_file(self._service.files, job.key, model).id
        tokens = trained_tokens(model)
        if book.change(job.id, "running", ("running",), artifact=digest, result_file=results, trained_tokens=tokens):
            for name, entry in {**self._checkpoints(job, made), build_served_model_name(job): digest}.items():
                releases.release(self._service.ledger, name, ReleasedModel(word=job.id, model=entry, digest=entry))

    def _checkpoints(self, job: FineTuningJob, made: Mapping[str, str]) -> dict[str, str]:
        """The models after earlier epochs by the names that they get; one that is the end itself needs none."""
        steps = {entry: self._service.steps(entry) for step, entry in made.items() if step.startswith(EPOCH)}
        end = self._service.steps(made[TUNE])
        return {checkpoint_name(build_served_model_name(job), at): entry for entry, at in steps.items() if at < end}

    def _succeed(self, job: FineTuningJob) -> None:
        name, folder = build_served_model_name(job), self._service.folder(job.id)
        if self._service.book.any(job.id).artifact is not None and self._service.book.change(
            job.id, "succeeded", ("running",), model=name, process=None
        ):
            append_job_event(folder, f"New fine-tuned model created: {name}")
            append_job_event(folder, "The job has successfully completed")

    def _lost(self, job: FineTuningJob, outcome: ProcessOutcome) -> None:
        """Handle a run without a result: one with an error has failed; a killed one is retried."""
        if outcome.error is not None:
            self._fail(job, str(outcome.error["message"]), "job_failed", None)
            return
        deaths, folder = self._service.book.any(job.id).deaths + 1, self._service.folder(job.id)
        if deaths > MOST_DEATHS:
            words = read_log_tail(folder)
            self._fail(job, f"its process was killed {deaths} times{f': {words}' if words else ''}", "killed", None)
        elif self._service.book.change(job.id, "queued", ("running",), deaths=deaths, process=None):
            append_job_event(folder, "The job's process was killed; it goes on from its last checkpoint", "warning")

    async def _interrupt(self) -> None:
        """Stop running jobs with their state kept; cluster jobs continue unobserved."""
        left = list(self._running.values())
        for running in left:
            if running.task is not None:
                running.task.cancel()
            running.process.tell(signal.SIGKILL if self._placement.is_elsewhere else signal.SIGTERM)
        end = time.monotonic() + _PATIENCE_S
        while not all(running.process.over for running in left) and time.monotonic() < end:
            await asyncio.sleep(_EVERY_S / 4)
        for running in left:
            if not running.process.over:
                running.process.tell(signal.SIGKILL)
