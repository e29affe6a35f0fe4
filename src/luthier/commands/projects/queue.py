"""The queue of runs: each recipe that was asked for is run by a process of its own, one after another.

The queue stands in the workspace's ledger and a run is a session of its own, so that neither a closed browser nor a
restarted server changes anything: the next server finds the process as the ledger has it, and goes on with it.
"""

from __future__ import annotations

import platform
import secrets
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from luthier.commands.jobs.process import JobProcess, read_log_tail, signal_process_group
from luthier.commands.jobs.records import FineTuningJob
from luthier.commands.jobs.records import State as JobState
from luthier.core.db import Ledger, Run
from luthier.core.errors import InputError, LuthierError, UnknownName
from luthier.core.files import translate_write_errors
from luthier.core.system.process import is_process_gone
from luthier.recipe.launches import waits_for_launch
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from luthier.core.db.tables.studio import QueuedRunRow

QueueState = Literal["queued", "running", "done", "failed", "interrupted", "cancelled"]
Move = Literal["up", "down", "front"]
ENDED: frozenset[QueueState] = frozenset({"done", "failed", "interrupted", "cancelled"})
_PATIENCE = timedelta(seconds=20)
"""How long a run may take to keep its state and end, when it is told to."""
_KEPT = 200
"""Entries that are listed."""


class QueuedRun(BaseModel):
    """A run that was asked for."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    recipe_file: str
    overrides: list[str]
    state: QueueState
    position: float
    requested_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None
    finished_at: datetime | None
    process: str | None
    run: str | None
    exit_code: int | None
    error: dict[str, Any] | None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ENDED

    @property
    def words(self) -> list[str]:
        """The command that does the same."""
        return ["luthier", "run", self.recipe_file, *self.overrides]

    @property
    def message(self) -> str:
        """Why it failed; empty where it did not."""
        return str((self.error or {}).get("message", ""))


class RunQueue:
    """The runs of a workspace that wait, are under way, or are over."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, recipe_file: Path, overrides: Sequence[str] = ()) -> QueuedRun:
        """Ask for a run of a recipe, behind those that wait; the same run is not queued twice."""
        from luthier.core.db.tables.studio import QueuedRunRow

        with self._ledger.writing() as session:
            rows = _select(session, ("queued", "running"))
            for row in rows:
                if (row.recipe_file, row.overrides) == (str(recipe_file), list(overrides)):
                    return QueuedRun.model_validate(row)
            added = QueuedRunRow(
                id=secrets.token_hex(6), recipe_file=str(recipe_file), overrides=list(overrides), state="queued",
                position=max((row.position for row in rows), default=0.0) + 1, requested_at=datetime.now(UTC),
            )  # fmt: skip
            session.add(added)
            session.flush()
            return QueuedRun.model_validate(added)

    def get(self, run: str) -> QueuedRun:
        """One run by its id; `UnknownName` where there is none."""
        with self._ledger.reading() as session:
            return QueuedRun.model_validate(_row(session, run))

    def all(self, states: Sequence[QueueState] = ()) -> list[QueuedRun]:
        """The runs: what is under way, what waits in its order, then what is over, the latest first."""
        with self._ledger.reading() as session:
            queued_runs = [QueuedRun.model_validate(row) for row in _select(session, states)]
        waiting = [run for run in queued_runs if not run.ended]
        waiting.sort(key=lambda run: (run.state != "running", run.position))
        ended = sorted((run for run in queued_runs if run.ended), key=lambda run: run.requested_at, reverse=True)
        return [*waiting, *ended[:_KEPT]]

    def of(self, recipe_file: Path) -> list[QueuedRun]:
        """The runs of one recipe, the latest first."""
        queued_runs = [run for run in self.all() if run.recipe_file == str(recipe_file)]
        return sorted(queued_runs, key=lambda run: run.requested_at, reverse=True)

    def stop(self, run: str) -> QueuedRun:
        """Take a run that waits out of the queue; tell one that is under way to keep its state and end."""
        now = datetime.now(UTC)
        with self._ledger.writing() as session:
            row = _row(session, run)
            if row.state == "queued":
                row.state, row.finished_at = "cancelled", now
            elif row.state == "running":
                row.stopped_at = row.stopped_at or now
            stopped = QueuedRun.model_validate(row)
        if stopped.state == "running" and stopped.process is not None:
            signal_process_group(stopped.process, signal.SIGTERM)
        return stopped

    def again(self, run: str) -> QueuedRun:
        """Ask for a run that is over once more: what was finished is kept, so that it goes on where it ended."""
        before = self.get(run)
        if not before.ended:
            raise InputError(f"the run {run} is not over yet", hint="stop it first")
        return self.add(Path(before.recipe_file), before.overrides)

    def move(self, run: str, where: Move) -> None:
        """Let a run that waits change places with the one before or behind it, or be the next."""
        with self._ledger.writing() as session:
            row = _row(session, run)
            run_rows = [run_row for run_row in _select(session, ("queued",)) if run_row.id != row.id]
            before = [run_row for run_row in run_rows if run_row.position < row.position]
            after = [run_row for run_row in run_rows if run_row.position > row.position]
            if row.state != "queued":
                return
            if where == "front" and before:
                row.position = min(run_row.position for run_row in before) - 1
            elif where == "up" and before:
                other = max(before, key=lambda run_row: run_row.position)
                row.position, other.position = other.position, row.position
            elif where == "down" and after:
                other = min(after, key=lambda run_row: run_row.position)
                row.position, other.position = other.position, row.position

    def jobs(self) -> list[FineTuningJob]:
        """The fine-tuning jobs of the same ledger that are not ended, in the order in which they were asked for."""
        from luthier.commands.jobs.records import ENDED as JOBS_ENDED
        from luthier.commands.jobs.registry import JobRepository

        states = [state for state in get_args(JobState) if state not in JOBS_ENDED]
        return JobRepository(self._ledger).everybody(states=states)[::-1]

    def is_job_running(self) -> bool:
        """Whether a fine-tuning job of the same ledger has the machine; one that a cluster tunes leaves it free."""
        return any(
            _lives_here(job.process) and not waits_for_launch(self._ledger, job.id.lower()) for job in self.jobs()
        )

    def is_run_under_way(self) -> bool:
        """Whether a run has the machine: its process lives, whatever became of the server that began it."""
        return any(_lives_here(queued_run.process) for queued_run in self.all(("running",)))

    def update(self, queued: str, **values: Any) -> None:
        """Write down what became of a run."""
        with self._ledger.writing() as session:
            row = _row(session, queued)
            for name, value in values.items():
                setattr(row, name, value)


class QueueRunner:
    """Runs what waits. Of several servers over one workspace, one does."""

    def __init__(self, queue: RunQueue, workspace: Workspace, folder: Path) -> None:
        """`folder` is where locks and what the processes print are kept."""
        self._queue, self._workspace, self._folder = queue, workspace, folder
        self._lock = FileLock(folder / ".lock", thread_local=False)
        self._processes: dict[str, JobProcess] = {}

    def advance(self) -> None:
        """Look once: end what is over, begin what comes next."""
        if not self._alone():
            return
        running = self._queue.all(("running",))
        for run in running:
            self._follow(run)
        if self._queue.all(("running",)) or self._queue.is_job_running():
            return
        if waiting := self._queue.all(("queued",)):
            self._start(waiting[0])

    def close(self) -> None:
        """Let another server take over; runs go on."""
        self._lock.release()

    def _alone(self) -> bool:
        try:
            with translate_write_errors(self._folder):
                self._folder.mkdir(0o700, parents=True, exist_ok=True)
                if not self._lock.is_locked:
                    self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def _start(self, run: QueuedRun) -> None:
        """Begin a run; what keeps it from beginning ends it."""
        recipe, now = self._workspace.resolve(run.recipe_file), datetime.now(UTC)
        try:
            started = JobProcess.start(
                recipe,
                self._workspace.with_folder(recipe.parent).store_location,
                folder=self._output(run),
                overrides=run.overrides,
            )
        except LuthierError as error:
            self._queue.update(run.id, state="failed", finished_at=now, error=error.as_json()["error"], exit_code=2)
            return
        self._processes[run.id] = started
        self._queue.update(run.id, state="running", started_at=now, process=started.name)

    def _follow(self, run: QueuedRun) -> None:
        """Note the run's id once it is known, and how it ended once it has."""
        if run.process is None:
            self._queue.update(run.id, state="queued")  # the server was killed before it began
            return
        process = self._processes.get(run.id) or JobProcess(self._output(run), run.process)
        over = process.over  # asked first: what it wrote before its end is then there
        recorded = self._recorded(run)
        if recorded is not None and run.run is None:
            self._queue.update(run.id, run=recorded.id)
        if over:
            self._end(run, process, recorded)
        elif run.stopped_at is not None and datetime.now(UTC) - run.stopped_at > _PATIENCE:
            process.tell(signal.SIGKILL)

    def _end(self, run: QueuedRun, process: JobProcess, recorded: Run | None) -> None:
        """Write down how a run ended: as its ledger has it; one that was killed, or never began, as it printed."""
        self._processes.pop(run.id, None)
        state: QueueState = "interrupted"
        exit_code, error = 130, None
        if recorded is not None and recorded.state in ("done", "failed"):
            state = "done" if recorded.state == "done" else "failed"
            exit_code, error = recorded.exit_code or 0, (recorded.error or {}).get("error")
        elif run.stopped_at is None and (printed := process.outcome().error) is not None:
            state, exit_code, error = "failed", 2, dict(printed)
        elif run.stopped_at is None and recorded is None:
            message = read_log_tail(process.folder) or "its process ended before the run began"
            state, exit_code, error = "failed", 4, {"kind": "LuthierError", "message": message, "hint": ""}
        self._queue.update(run.id, state=state, exit_code=exit_code, error=error, finished_at=datetime.now(UTC))

    def _output(self, run: QueuedRun) -> Path:
        return self._folder / run.id

    def _recorded(self, run: QueuedRun) -> Run | None:
        """What the ledger of the recipe has of a run; None before it begins, or while that ledger is away."""
        workspace = self._workspace.with_folder(self._workspace.resolve(run.recipe_file).parent)
        with suppress(LuthierError):
            if run.process is not None and workspace.has_ledger():
                with workspace.open_ledger() as ledger:
                    return ledger.find_run_of_process(run.process)
        return None


def _lives_here(process: str | None) -> bool:
    """Whether a process, by its name, is one of this machine's and not over."""
    return process is not None and process.partition("|")[0] == platform.node() and not is_process_gone(process)


def _select(session: Session, states: Sequence[QueueState]) -> Sequence[QueuedRunRow]:
    from sqlalchemy import select

    from luthier.core.db.tables.studio import QueuedRunRow

    query = select(QueuedRunRow)
    return session.scalars(query.where(QueuedRunRow.state.in_(states)) if states else query).all()


def _row(session: Session, run: str) -> QueuedRunRow:
    from luthier.core.db.tables.studio import QueuedRunRow

    row = session.get(QueuedRunRow, run)
    if row is None:
        raise UnknownName(f"no run {run!r} in the queue")
    return row
