"""Steps made by a scheduler's jobs: each job runs `luthier make TASK` over the same store.

A step is done when its artifact is in the store, whatever the scheduler reports. A job is named by the store and the
digest of its artifact, so that a run finds the job of a killed run, and no step has two. The job holds the step's lock.
The ledger of the run lists its jobs. `ROOT/tasks/DIGEST/` next to the artifacts has a job's events as JSON lines, its
final error, and its output; for a store behind a URL, the job sends events and error there.
"""

from __future__ import annotations

import json
import os
import re
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, PrivateAttr

from luthier.core.artifact import Artifact
from luthier.core.component import iter_components
from luthier.core.db import Ledger
from luthier.core.errors import InputError, Interrupted, LuthierError, SourceLocation, SystemResourceError
from luthier.core.events import Listener, RunEvent, RunEventEmitter
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.lease import PATIENCE_S, StoreUnreachable, persist
from luthier.core.remote_store import is_remote
from luthier.core.render import LogFileRenderer
from luthier.core.step import StepContext
from luthier.core.store import Store
from luthier.recipe.executor import Executor, StepFault, StepTask
from luthier.recipe.executors.local import LocalExecutor
from luthier.recipe.launches import LaunchState, end_launch, has_open_launch, record_launch
from luthier.recipe.planner import PlannedStep, RecipePlan
from luthier.recipe.scheduler_api import SchedulerTimeoutError
from luthier.recipe.task_files import find_sent_models, find_step_files, send_files, send_models

_EVENTS, _ERROR, _TASK, OUTPUT = "events.jsonl", "error.json", "task.json", "output.log"
_SEND_S = 2.0
"""Seconds between two sendings of a job's events to a store behind a URL."""
_QUICKER = 10
"""Ratio by which a new job is polled more often than every `poll_s` seconds; the interval is a tenth of its age."""
_PASSWORD = re.compile(r"://[^/@:\s\"]{0,400}:[^/@\s\"]{1,400}@")
_CANCELLED = re.compile("cancel|stopped|deleted", re.IGNORECASE)
"""States of a cancelled job."""
_LOST = frozenset({"RankLost", "Interrupted"})
"""Errors of a job of several processes that the loss of one of them brings about; torchrun then stops the others."""
_TAIL = 20
"""Lines of a job's output that the error about it shows."""


class JobFailed(LuthierError):
    """The job of a step ended without an artifact and without a word."""


class JobStatus(NamedTuple):
    """A job's status from a scheduler."""

    state: Literal["pending", "running", "ended"]
    reason: str = ""
    """Why it waits, or how it ended, from the scheduler."""


class BatchJob(NamedTuple):
    """A job that a scheduler is to run."""

    name: str
    """Follows from the artifact's digest and its store: letters, digits and `-`, 24 characters."""
    task: str
    """Standard input of `luthier make`: one line of JSON."""
    output: Path
    """The file that its output goes to, where the scheduler writes into the store's folder."""
    location: str = ""
    """Path or URL of the task in the store, for executors with `sends_task`."""


def refuse_passwords(text: str, scheduler: str) -> None:
    """`InputError` where what a scheduler would show to its users has an address with a password."""
    if _PASSWORD.search(text):
        message = f"the recipe, its store or its database has an address with a password, which {scheduler} would show"
        hint = "take the password out of the address; keys come to a job from its machine or by `secrets`"
        raise InputError(message, where=SourceLocation(field="on"), hint=hint)


def require_remote_store(store: Store, folder: Path) -> None:
    """`InputError` for a store on this machine, which no machine of a cloud reaches."""
    if not is_remote(store.location):
        hint = f"keep it behind a URL: LUTHIER_STORE=s3://bucket/{folder.name}"
        message = f"no machine of a cloud can reach the store {store.location}"
        raise InputError(message, where=SourceLocation(field="on"), hint=hint)


def get_job_name(store: Store, digest: str) -> str:
    """The name of the job that makes an artifact of a store."""
    location = store.location if "://" in store.location else str(store.root.absolute())
    return f"luthier-{digest_of([location, digest])[:16]}"


class BatchExecutor(Executor):
    """The base of executors that hand each step to a scheduler, and follow its job."""

    is_elsewhere: ClassVar[bool] = True
    sends_task: ClassVar[bool] = False
    """Whether the job reads its task from the store (`BatchJob.location`), so that only a location is submitted."""

    poll_s: float = Field(default=2.0, gt=0)
    """Seconds between two looks at the job; fewer while it is new."""
    grace_s: float = Field(default=30.0, ge=0)
    """Seconds after its job's end in which an artifact may still appear: shared file systems tell late."""
    nodes: int = Field(default=1, ge=1)
    """Nodes of a job (machines or pods), each with the processors, memory and GPUs that are asked for."""
    processes_per_node: int = Field(default=1, ge=1)
    """Processes of a step on each node, which are one group, as torchrun starts it."""
    group_retries: int = Field(default=3, ge=0)
    """How often a job of several processes is submitted again, as a whole, when one of them or its node was lost; it
    goes on from its newest checkpoint."""
    machine: str | None = Field(default=None, pattern=r"^[\w.-]{1,64}$")
    """What the job computes on in the catalogue of machines, such as `h100`, for the estimates of `plan --on`."""

    _cancelled: set[str] = PrivateAttr(default_factory=set)
    """Names of jobs that the run has ended."""

    @property
    def is_group(self) -> bool:
        """Whether several processes make a step."""
        return self.nodes * self.processes_per_node > 1

    def find_machine(self) -> tuple[str, int] | None:
        """The machine by its name in the catalogue, and how many devices a job has; None when that is not known."""
        return None if self.machine is None else (self.machine, self.nodes * self.count_devices())

    @property
    def cancelled(self) -> frozenset[str]:
        """Names of the jobs that this run has ended."""
        return frozenset(self._cancelled)

    def count_devices(self) -> int:
        """Devices of one node that a step computes on."""
        return self.processes_per_node

    @abstractmethod
    def submit(self, job: BatchJob) -> None:
        """Hand a job to the scheduler; `LuthierError` when it refuses."""

    @abstractmethod
    def find(self, name: str) -> JobStatus | None:
        """Return the scheduler's status of the newest job of a name; None when there is none."""

    @abstractmethod
    def cancel_job(self, name: str) -> None:
        """End the jobs of a name; nothing when there are none."""

    def check_reach(self, folder: Path, store: Store) -> None:
        """`InputError` where a job could not reach the recipe's folder or the store."""

    def reaches(self, path: Path) -> bool:
        """Return whether jobs can read a path of this machine in place; other files are sent, or refused."""
        return False

    def find_files(self, plan: RecipePlan, planned: PlannedStep) -> dict[str, Path]:
        """As `Executor.find_files`; a store in a folder is on a file system that has the files, too."""
        return find_step_files(plan, planned, self.reaches) if is_remote(plan.store.location) else {}

    def read_output(self, name: str) -> str:
        """The last lines that the newest job of a name printed, where they do not go to `BatchJob.output`."""
        return ""

    def check(self, plan: RecipePlan, planned: PlannedStep) -> None:
        """`InputError` where a job could not reach the store, the recipe or a file that the step reads."""
        self.check_reach(plan.recipe.recipe_dir.absolute(), plan.store_of(planned))
        self.find_files(plan, planned)

    def make_artifact(self, plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> Artifact:
        """Submit the step's job, or find that of an earlier run, and follow it until the artifact stands."""
        self.check(plan, planned)
        return _JobFollower(self, plan, planned, events).follow()

    def cancel(self, plan: RecipePlan, planned: PlannedStep) -> None:
        """End the step's job; it keeps its checkpoints as by Ctrl-C."""
        name = get_job_name(plan.store_of(planned), planned.digest)
        self._cancelled.add(name)
        with suppress(LuthierError), plan.recipe.workspace.open_ledger() as ledger:
            end_launch(ledger, name, "cancelled")
        self.cancel_job(name)


class _JobFollower:
    """Follows one job."""

    def __init__(
        self, executor: BatchExecutor, plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter
    ) -> None:
        self._executor, self._plan, self._planned, self._events = executor, plan, planned, events
        self._store = plan.store_of(planned)
        self._files = plan.store
        self._events_file, self._error = _get_file(planned.digest, _EVENTS), _get_file(planned.digest, _ERROR)
        self._output = self._files.root / _get_file(planned.digest, OUTPUT)
        self._name = get_job_name(self._store, planned.digest)
        self._said = ""
        self._submitted_at = time.monotonic()
        self._retries, self._is_lost = 0, False
        """How often the job was submitted again, and whether its end was the loss of a process."""
        self._read = 0
        """Bytes of its events that were passed on."""

    def follow(self) -> Artifact:
        """The artifact, once it stands; raises what ended the job too early. How it ended is in the ledger."""
        state: LaunchState = "failed"
        try:
            self._begin()
            artifact = self._wait()
            state = "done"
        except Interrupted:
            state = "cancelled"
            raise
        except StoreUnreachable:
            state = "submitted"  # the job knows nothing of that
            raise
        finally:
            self._record(lambda ledger: end_launch(ledger, self._name, state))
        return artifact

    def _wait(self) -> Artifact:
        """The artifact, once it stands."""
        ended_at: float | None = None
        while True:
            is_made = persist(lambda: self._store.has(self._planned.digest))
            if self._pass_events() or (is_made and self._pass_last_events()):
                self._executor.cancel_job(self._name)
                raise Interrupted(f"{self._planned.name!r} was stopped by who listens to its numbers")
            if is_made:
                return persist(lambda: self._plan.store.open(self._planned.digest))
            status = self._look()
            self._tell(status)
            if status is not None and status.state != "ended":
                ended_at = None
            elif ended_at is None:
                ended_at = time.monotonic()
            elif (failure := self._find_failure(status, ended_at)) is not None:
                if not self._retry_group(failure, status):
                    raise failure
                ended_at = None
            time.sleep(self._get_pause_s())

    def _get_pause_s(self) -> float:
        """Seconds until the next look: few at first, so that a job's beginning and a quick end are seen at once."""
        longest = self._executor.poll_s
        return min(longest, max(longest / _QUICKER, (time.monotonic() - self._submitted_at) / _QUICKER))

    def _look(self) -> JobStatus | None:
        """Return the scheduler's status of the job; failed requests are retried for ten minutes."""
        deadline: float | None = None
        while True:
            try:
                return self._executor.find(self._name)
            except SystemResourceError as error:
                if deadline is None:
                    deadline = time.monotonic() + PATIENCE_S
                    text = (
                        f"the scheduler does not say how the job {self._name} is, and is asked again: {error.message}"
                    )
                    self._events.emit(RunEvent(kind="wait", step=self._planned.name, text=text))
                if time.monotonic() >= deadline or self._name in self._executor.cancelled:
                    raise
            time.sleep(self._executor.poll_s)

    def _find_failure(self, status: JobStatus | None, ended_at: float) -> Exception | None:
        """Return why a finished job has no artifact; None while that may still arrive."""
        if error := persist(lambda: self._files.read_file(self._error)):
            found = json.loads(error)
            self._is_lost = found.get("error", {}).get("kind") in _LOST
            return self._parse_error(found)
        self._is_lost = True
        return self._failure(status) if time.monotonic() - ended_at >= self._executor.grace_s else None

    def _retry_group(self, failure: Exception, status: JobStatus | None) -> bool:
        """Submit a job of several processes again where one of them was lost; returns whether it was."""
        is_cancelled = self._name in self._executor.cancelled or (status and _CANCELLED.search(status.reason))
        most = self._executor.group_retries
        if not self._executor.is_group or is_cancelled or not self._is_lost or self._retries >= most:
            return False
        self._retries += 1
        how = str(failure).partition("\n")[0]
        text = f"a process of the job {self._name} was lost ({how}); all of it is submitted again, {self._retries} of"
        text += f" {most} times, and goes on from its newest checkpoint"
        self._events.of(self._planned.name).warning(text)
        self._record(lambda ledger: end_launch(ledger, self._name, "failed"))
        self._begin()
        return True

    def _begin(self) -> None:
        """Submit the job where none waits or runs; of two runs that begin at once, one submits."""
        note = self._events.of(self._planned.name).note
        with self._store.lock(f"{self._planned.digest}.submit"):
            status = self._executor.find(self._name)
            if status is not None and status.state != "ended":
                self._read = len(self._files.read_file(self._events_file))
                note(f"the job {self._name} of an earlier run is {status.state}; this run follows it")
                self._record(lambda ledger: None if has_open_launch(ledger, self._name) else self._add_launch(ledger))
                return
            self._output.parent.mkdir(parents=True, exist_ok=True)
            for file in (self._events_file, self._error):
                self._files.remove_file(file)
            self._read = 0
            task = self._make_task().model_dump_json()
            self._record(self._add_launch)  # before: a run that is killed while it submits has told of its job
            location = self._send_task(task) if self._executor.sends_task else ""
            try:
                self._executor.submit(BatchJob(self._name, task, self._output, location))
            except SchedulerTimeoutError as error:
                self._await_job(error)
            self._submitted_at = time.monotonic()
            note(f"submitted the job {self._name}")

    def _make_task(self) -> StepTask:
        """The task, once what it needs from this machine is behind the URL."""
        plan, planned = self._plan, self._planned
        paths = self._executor.find_files(plan, planned)
        if not is_remote(self._files.location):
            return StepTask.of(plan, planned)
        models = find_sent_models(plan, planned, self._executor.reaches)
        if models:
            self._events.of(planned.name).note("sending the base model to the store, where it is not there yet")
            send_models(plan, models)
        return StepTask.of(plan, planned, send_files(self._files, paths), models)

    def _await_job(self, error: SchedulerTimeoutError) -> None:
        """Wait for a job to be seen whose submission was not answered; raises the error where none comes."""
        deadline = time.monotonic() + self._executor.grace_s
        while True:
            with suppress(SystemResourceError):
                status = self._executor.find(self._name)
                if status is not None and status.state != "ended":
                    return
            if time.monotonic() >= deadline:
                raise error
            time.sleep(min(self._executor.poll_s, _SEND_S))

    def _send_task(self, task: str) -> str:
        """Put the task into the store; returns where."""
        refuse_passwords(task, "the store")
        name = _get_file(self._planned.digest, _TASK)
        write_atomically(self._files.root / name, task.encode())
        self._files.send_file(name)
        base = self._files.location if is_remote(self._files.location) else str(self._files.root.absolute())
        return f"{base}/{name}"

    def _add_launch(self, ledger: Ledger) -> None:
        record_launch(
            ledger,
            self._plan.recipe,
            executor=self._executor.kind,
            job=self._name,
            store=self._store,
            step=self._planned.name,
            artifact=self._planned.digest,
        )

    def _record(self, write: Callable[[Ledger], None]) -> None:
        """Write into the ledger; one that cannot be written now stops no job."""
        try:
            with self._plan.recipe.workspace.open_ledger() as ledger:
                write(ledger)
        except LuthierError as error:
            self._events.of(self._planned.name).warning(f"the job {self._name} is not in the ledger: {error}")

    def _pass_events(self) -> bool:
        """Pass on the job's new events, until a listener asks to stop; returns whether one does."""
        data = persist(lambda: self._files.read_file(self._events_file))[self._read :]
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return any(self._events.emit(RunEvent(**json.loads(line))) for line in whole.splitlines())

    def _pass_last_events(self) -> bool:
        """Behind a URL, the last events come after the artifact: pass them on at the end of the job."""
        if not is_remote(self._files.location):
            return False
        deadline = time.monotonic() + self._executor.grace_s
        while time.monotonic() < deadline:
            status = self._look()
            if status is None or status.state == "ended":
                break
            time.sleep(self._executor.poll_s)
        return self._pass_events()

    def _tell(self, status: JobStatus | None) -> None:
        """Say once why a job waits."""
        if status is not None and status.state == "pending" and status.reason not in ("", self._said):
            self._said = status.reason
            self._events.emit(
                RunEvent(kind="wait", step=self._planned.name, text=f"the job {self._name} waits: {status.reason}")
            )

    def _parse_error(self, found: dict[str, Any]) -> Exception:
        """The error that ended the job: one of the user's, or a fault."""
        if "fault" in found:
            return StepFault(f"the job of {self._planned.name!r} ended by a fault:\n{found['fault']}")
        return LuthierError.from_json(found)

    def _failure(self, status: JobStatus | None) -> JobFailed:
        how = status.reason if status is not None and status.reason else "the scheduler no longer knows it"
        own = self._output.read_text(encoding="utf-8", errors="replace") if self._output.is_file() else ""
        lines = (own or self._executor.read_output(self._name)).splitlines()[-_TAIL:]
        output = ":\n" + "\n".join(lines) if lines else ""
        message = f"the job {self._name} ended without an artifact ({how}){output}"
        hint = "finished steps and checkpoints are kept; run it again to go on"
        return JobFailed(message, where=SourceLocation(field=f"steps.{self._planned.name}"), hint=hint)


def _get_file(digest: str, name: str) -> str:
    """Return a job's file, next to the artifacts of the recipe's store."""
    return f"tasks/{digest}/{name}"


def follow_task_step(task: StepTask) -> None:
    """Compute with rank 0 of this job, which makes the step of a task; nothing for a step that one process makes."""
    plan, planned = task.open()
    if not planned.step.takes_ranks or plan.store_of(planned).has(planned.digest):
        return
    _make_base_models(plan, planned, RunEventEmitter())
    with TemporaryDirectory(prefix="luthier-rank-") as folder:
        work = StepContext(
            name=planned.name,
            inputs={field: plan.store.open(digest).check() for field, digest in planned.inputs.items()},
            folder=Path(folder),
            scratch=Path(folder),
            recipe_dir=plan.recipe.recipe_dir,
            seed=plan.recipe.seed,
        )
        planned.step.follow(work)


def make_task_step(task: StepTask, *listeners: Listener) -> Artifact:
    """Make the step of a task under its lock, or find what another job made meanwhile.

    Its events and the error that ends it are written where the run that waits for it looks.
    """
    store, error_file = task.workspace.open_store(), _get_file(task.digest, _ERROR)
    with _EventSender(store, _get_file(task.digest, _EVENTS)) as sender:
        store.remove_file(error_file)
        try:
            plan, planned = task.open()
            if not planned.step.takes_ranks:
                os.environ.pop("WORLD_SIZE", None)  # no step that it drives has followers
            return _make_once(plan, planned, RunEventEmitter(sender, *listeners))
        except LuthierError as error:
            _write_error(store, error_file, error.as_json())
            raise
        except KeyboardInterrupt:
            stopped = Interrupted("its job was told to stop; checkpoints are kept", hint="run it again to go on")
            _write_error(store, error_file, stopped.as_json())
            raise
        except Exception as error:  # raised again: the entry point says that it is a fault
            _write_error(store, error_file, {"fault": "".join(traceback.format_exception(error))})
            raise


class _EventSender(AbstractContextManager["_EventSender"]):
    """Writes the events of a job where its run reads them; behind a URL, the whole file every few seconds."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._sent_at = 0.0
        path = store.root / name
        if is_remote(store.location):  # a job that was put on another machine goes on with the events of the one before
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, store.read_file(name))
        self._log = LogFileRenderer(path)

    def __call__(self, event: RunEvent) -> None:
        self._log(event)
        if time.monotonic() - self._sent_at >= _SEND_S:
            self._sent_at = time.monotonic()
            with suppress(StoreUnreachable):  # the next sending holds these events, too
                self.send()

    def send(self) -> None:
        """Send what was not sent yet."""
        self._store.send_file(self._name)

    def __exit__(self, *ended: object) -> None:
        self._log.close()
        persist(self.send)


def _write_error(store: Store, name: str, error: dict[str, Any]) -> None:
    write_atomically(store.root / name, json.dumps(error).encode())
    persist(lambda: store.send_file(name))


def _make_once(plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> Artifact:
    store = plan.store_of(planned)
    with store.lock(planned.digest) as held:
        assert held, "a lock that was waited for is held"
        if store.has(planned.digest):
            return plan.store.open(planned.digest)
        _make_base_models(plan, planned, events)
        for part in iter_components(planned.step):
            part.download(events.of(planned.name).note)
        return LocalExecutor().make_artifact(plan, planned, events)


def _make_base_models(plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> None:
    """Fetch the base models that a step reads and that this machine does not have."""
    for digest in planned.inputs.values():
        source = next((planned_step for planned_step in plan if planned_step.digest == digest), None)
        if source is not None and source.step.shared and not plan.store.has(digest):
            _make_once(plan, source, events)


__all__ = [
    "BatchExecutor",
    "BatchJob",
    "JobFailed",
    "JobStatus",
    "follow_task_step",
    "make_task_step",
    "refuse_passwords",
    "require_remote_store",
]
