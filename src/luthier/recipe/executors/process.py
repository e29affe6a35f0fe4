"""Steps made in other processes, which a step that runs out of memory takes down alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError, SourceLocation
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.system.process import python_command, raise_pending_stop
from luthier.recipe.executor import Executor, StepFault, StepTask
from luthier.recipe.planner import PlannedStep, RecipePlan

_MODULE = "luthier.recipe.step_process"
_GRACE_S = 30.0
"""Seconds in which a stopped step may end by itself."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""The variables by which libraries learn how many threads they may have."""
_TAIL = 40
"""Lines of its log that the error of a fault shows."""


class StepKilled(LuthierError):
    """The process of a step was killed from outside, as by a system that is out of memory."""


class ProcessExecutor(Executor):
    """In a process of its own for each step: the memory of a step is free when it is done."""

    kind: Literal["process"] = "process"

    threads: int | None = Field(default=None, ge=1)
    """Threads that each step computes with; as many as there are processors when not given."""
    _idle: ProcessPool | None = PrivateAttr(default=None)

    @classmethod
    def of_pool(cls, pool: ProcessPool) -> ProcessExecutor:
        """An executor whose processes stay in a pool for further steps, which then need not load libraries again."""
        executor = cls(threads=pool.threads)
        executor._idle = pool
        return executor

    def make_artifact(self, plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> Artifact:
        task = StepTask.of(plan, planned)
        process = self._idle.take() if self._idle is not None else None
        if process is None:
            threads = {} if self.threads is None else dict.fromkeys(_THREADS, str(self.threads))
            process = StepProcess({**plan.recipe.workspace.environment, **threads})
        is_reusable = False
        try:
            outcome = process.make(task, events)
            is_reusable = self._idle is not None and process.is_idle
        finally:
            if not is_reusable:
                process.end()
        if is_reusable and self._idle is not None:
            self._idle.give_back(process)
        if "artifact" not in outcome:
            raise process.failure(outcome)
        return plan.store.open(planned.digest)


class ProcessPool:
    """Idle processes that can make further steps; used as a context, it ends them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        """Threads that each process computes with."""
        self._processes = deque[StepProcess]()

    def take(self) -> StepProcess | None:
        """The process that was used last, out of the pool; None where there is none."""
        while self._processes:
            process = self._processes.pop()
            if process.is_idle:
                return process
            process.end()
        return None

    def give_back(self, process: StepProcess) -> None:
        """Put a process into the pool."""
        self._processes.append(process)

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._processes:
            self._processes.pop().end()


class StepProcess:
    """A process that makes one step after another, seen from the run: lines of JSON come, and answers to progress go
    back."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._step, self._events, self._is_busy = "", RunEventEmitter(), False
        self._log = deque[str](maxlen=_TAIL)
        self._child = subprocess.Popen(  # noqa: S603  # this very program
            python_command("-m", _MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, **environment}, encoding="utf-8", errors="backslashreplace",
            start_new_session=True,
        )  # fmt: skip
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read_log, self._end_group)]
        for thread in self._threads:
            thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether it can make a further step."""
        return not self._is_busy and self._child.poll() is None

    def make(self, task: StepTask, events: RunEventEmitter) -> dict[str, Any]:
        """Make a step; returns the process's outcome, nothing when it ended without one."""
        self._step, self._events, self._is_busy = task.step, events, True
        self._send(task.model_dump_json())
        outcome = self._follow()
        self._is_busy = not outcome or "interrupted" in outcome
        return outcome

    def end(self) -> None:
        """End it: one that waits for a step by itself, one that makes a step as by Ctrl-C."""
        if self._is_busy and self._child.poll() is None:
            self._stop()
        with suppress(OSError):
            self._child.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_GRACE_S)
        for thread in self._threads:
            thread.join(_GRACE_S)
        for pipe in (self._child.stdout, self._child.stderr):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes

    def _follow(self) -> dict[str, Any]:
        """Pass events on and replies back until the step ends."""
        assert self._child.stdout is not None
        for line in self._child.stdout:
            message: dict[str, Any] = json.loads(line)
            if "event" not in message:
                return message
            stop = self._events.emit(RunEvent(**message["event"]))
            raise_pending_stop(in_any_thread=True)
            if message["event"]["kind"] == "progress":
                self._send(json.dumps({"stop": stop}))
        self._child.wait()
        return {}

    def _send(self, line: str) -> None:
        assert self._child.stdin is not None
        with suppress(OSError):  # it ended meanwhile, which is seen where its lines end
            self._child.stdin.write(f"{line}\n")
            self._child.stdin.flush()

    def failure(self, outcome: dict[str, Any]) -> BaseException:
        """Return why there is no artifact."""
        if "interrupted" in outcome:
            return KeyboardInterrupt()
        if "error" in outcome:
            return LuthierError.from_json(outcome)
        code, step = self._child.returncode, self._step
        if code < 0:
            name = signal.Signals(-code).name
            likely = ", most likely because memory ran out" if -code == signal.SIGKILL else ""
            where = SourceLocation(field=f"steps.{step}")
            hint = "finished steps and checkpoints are kept; run it again to go on"
            return StepKilled(f"its process was ended by {name}{likely}", where=where, hint=hint)
        return StepFault(f"the process of {step!r} ended with code {code}:\n" + "\n".join(self._log))

    def _read_log(self) -> None:
        """Note what it writes to standard error, line by line."""
        assert self._child.stderr is not None
        for line in self._child.stderr:
            text = line.rstrip()
            self._log.append(text)
            if text:
                self._events.emit(RunEvent(kind="note", step=self._step, text=text))

    def _end_group(self) -> None:
        """End its child processes too, which would keep the pipes open."""
        self._child.wait()
        self._signal(signal.SIGKILL)

    def _stop(self) -> None:
        """Stop it as by Ctrl-C, while reading its output; kill it if it does not end."""
        threading.Thread(target=deque, args=(self._child.stdout, 0), daemon=True).start()
        self._signal(signal.SIGINT)
        try:
            self._child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._child.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)
