"""Steps that jobs of a scheduler make: each job runs `luthier make TASK` over the same store.

A step is done when its artifact stands in the store, whatever the scheduler says. A job is named by the store and the
digest of the artifact that it makes, so that a run finds the job of a run that was killed, and no step has two. The job
holds the step's lock. Beside the artifacts, `ROOT/tasks/DIGEST/` holds the events of a job as JSON lines, the error
that ended it, and its output.
"""

from __future__ import annotations

import json
import time
import traceback
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.core.component import iter_components
from luthier.core.errors import Interrupted, LuthierError, SourceLocation
from luthier.core.events import Listener, RunEvent, RunEventEmitter
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.render import LogFileRenderer
from luthier.core.store import Store
from luthier.recipe.executor import Executor, StepFault, StepTask
from luthier.recipe.executors.local import LocalExecutor
from luthier.recipe.planner import PlannedStep, RecipePlan

_EVENTS, _ERROR, OUTPUT = "events.jsonl", "error.json", "output.log"
_TAIL = 20
"""Lines of a job's output that the error about it shows."""


class JobFailed(LuthierError):
    """The job of a step ended without an artifact and without a word."""


class JobStatus(NamedTuple):
    """What a scheduler says of a job."""

    state: Literal["pending", "running", "ended"]
    reason: str = ""
    """Why it waits, or how it ended, in the scheduler's words."""


class BatchJob(NamedTuple):
    """A job that a scheduler is to run."""

    name: str
    """Follows from the artifact's digest and its store: letters, digits and `-`, 24 characters."""
    task: str
    """What `luthier make` reads on standard input: one line of JSON."""
    output: Path
    """The file that its output goes to, where the scheduler writes into the store's folder."""


def get_job_name(store: Store, digest: str) -> str:
    """The name of the job that makes an artifact of a store."""
    place = store.location if "://" in store.location else str(store.root.absolute())
    return f"luthier-{digest_of([place, digest])[:16]}"


class BatchExecutor(Executor):
    """The base of executors that hand each step to a scheduler, and follow its job."""

    is_elsewhere: ClassVar[bool] = True

    poll_s: float = Field(default=2.0, gt=0)
    """Seconds between two looks at the job."""
    grace_s: float = Field(default=30.0, ge=0)
    """Seconds after its job's end in which an artifact may still appear: shared file systems tell late."""

    @abstractmethod
    def submit(self, job: BatchJob) -> None:
        """Hand a job to the scheduler; `LuthierError` when it refuses."""

    @abstractmethod
    def find(self, name: str) -> JobStatus | None:
        """What the scheduler knows of the newest job of a name; None when it knows none."""

    @abstractmethod
    def cancel_job(self, name: str) -> None:
        """End the jobs of a name; nothing when there are none."""

    def make_artifact(self, plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> Artifact:
        """Submit the step's job, or find that of an earlier run, and follow it until the artifact stands."""
        return _JobFollower(self, plan, planned, events).follow()

    def cancel(self, plan: RecipePlan, planned: PlannedStep) -> None:
        """End the step's job; it keeps its checkpoints as by Ctrl-C."""
        self.cancel_job(get_job_name(plan.store_of(planned), planned.digest))


class _JobFollower:
    """One job, seen from the run."""

    def __init__(
        self, executor: BatchExecutor, plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter
    ) -> None:
        self._executor, self._plan, self._planned, self._events = executor, plan, planned, events
        self._store = plan.store_of(planned)
        self._folder = get_task_folder(plan.store, planned.digest)
        self._name = get_job_name(self._store, planned.digest)
        self._said = ""
        self._read = 0
        """Bytes of its events that were passed on."""

    def follow(self) -> Artifact:
        """The artifact, once it stands; raises what ended the job too early."""
        self._begin()
        ended_at: float | None = None
        while True:
            if self._pass_events():
                self._executor.cancel_job(self._name)
                raise Interrupted(f"{self._planned.name!r} was stopped by who listens to its numbers")
            if self._store.has(self._planned.digest):
                return self._plan.store.open(self._planned.digest)
            status = self._executor.find(self._name)
            self._tell(status)
            if status is not None and status.state != "ended":
                ended_at = None
            elif ended_at is None:
                ended_at = time.monotonic()
            elif (self._folder / _ERROR).is_file():
                raise self._read_error()
            elif time.monotonic() - ended_at >= self._executor.grace_s:
                raise self._failure(status)
            time.sleep(self._executor.poll_s)

    def _begin(self) -> None:
        """Submit the job where none waits or runs; of two runs that begin at once, one submits."""
        note = self._events.of(self._planned.name).note
        with self._store.lock(f"{self._planned.digest}.submit"):
            status = self._executor.find(self._name)
            if status is not None and status.state != "ended":
                self._read = self._count_event_bytes()
                note(f"the job {self._name} of an earlier run is {status.state}; this run follows it")
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in (_EVENTS, _ERROR):
                (self._folder / file).unlink(missing_ok=True)
            task = StepTask.of(self._plan, self._planned).model_dump_json()
            self._executor.submit(BatchJob(self._name, task, self._folder / OUTPUT))
            note(f"submitted the job {self._name}")

    def _count_event_bytes(self) -> int:
        path = self._folder / _EVENTS
        return path.stat().st_size if path.is_file() else 0

    def _pass_events(self) -> bool:
        """Pass on what the job says since the last look, until a listener asks to stop; returns whether one does."""
        path = self._folder / _EVENTS
        if not path.is_file():
            return False
        with path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return any(self._events.emit(RunEvent(**json.loads(line))) for line in whole.splitlines())

    def _tell(self, status: JobStatus | None) -> None:
        """Say once why a job waits."""
        if status is not None and status.state == "pending" and status.reason not in ("", self._said):
            self._said = status.reason
            self._events.emit(
                RunEvent(kind="wait", step=self._planned.name, text=f"the job {self._name} waits: {status.reason}")
            )

    def _read_error(self) -> Exception:
        """The error that ended the job: one of the user's, or a fault."""
        found = json.loads((self._folder / _ERROR).read_text(encoding="utf-8"))
        if "fault" in found:
            return StepFault(f"the job of {self._planned.name!r} ended by a fault:\n{found['fault']}")
        return LuthierError.from_json(found)

    def _failure(self, status: JobStatus | None) -> JobFailed:
        how = status.reason if status is not None and status.reason else "the scheduler no longer knows it"
        output = self._folder / OUTPUT
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:] if output.is_file() else []
        said = ":\n" + "\n".join(lines) if lines else ""
        message = f"the job {self._name} ended without an artifact ({how}){said}"
        hint = "finished steps and checkpoints are kept; run it again to go on"
        return JobFailed(message, where=SourceLocation(field=f"steps.{self._planned.name}"), hint=hint)


def get_task_folder(store: Store, digest: str) -> Path:
    """The folder beside a store's artifacts for what a job says."""
    return store.root / "tasks" / digest


def make_task_step(task: StepTask, *listeners: Listener) -> Artifact:
    """Make the step of a task under its lock, or find what another job made meanwhile.

    Its events and the error that ends it are written where the run that waits for it looks.
    """
    folder = get_task_folder(task.workspace.open_store(), task.digest)
    with LogFileRenderer(folder / _EVENTS) as log:
        (folder / _ERROR).unlink(missing_ok=True)
        try:
            return _make_once(*task.open(), RunEventEmitter(log, *listeners))
        except LuthierError as error:
            _write_error(folder, error.as_json())
            raise
        except KeyboardInterrupt:
            stopped = Interrupted("its job was told to stop; checkpoints are kept", hint="run it again to go on")
            _write_error(folder, stopped.as_json())
            raise
        except Exception as error:  # raised again: the entry point says that it is a fault
            _write_error(folder, {"fault": "".join(traceback.format_exception(error))})
            raise


def _write_error(folder: Path, error: dict[str, Any]) -> None:
    write_atomically(folder / _ERROR, json.dumps(error).encode())


def _make_once(plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> Artifact:
    store = plan.store_of(planned)
    with store.lock(planned.digest) as held:
        assert held, "a lock that was waited for is held"
        if store.has(planned.digest):
            return plan.store.open(planned.digest)
        for part in iter_components(planned.step):
            part.download(events.of(planned.name).note)
        return LocalExecutor().make_artifact(plan, planned, events)


__all__ = ["BatchExecutor", "BatchJob", "JobFailed", "JobStatus", "make_task_step"]
