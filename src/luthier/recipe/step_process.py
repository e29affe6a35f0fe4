"""`python -m luthier.recipe.step_process`: make the artifact of each step whose `StepTask` comes on standard input.

Lines of JSON go to standard output: `{"event": …}` for each event, and at the end of a step `{"artifact": DIGEST}`,
`{"error": …}` or `{"interrupted": true}`, after which the process ends. To each event of progress `{"stop": true}` or
`{"stop": false}` is read from standard input; its end means that the run is gone or has no further step, and a step
ends as by Ctrl-C. The caller holds the step's lock.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from typing import IO, Any

from luthier.core.errors import Interrupted, LuthierError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.system.process import handle_stop_signal, set_thread_wait_policy
from luthier.recipe.executor import StepTask
from luthier.recipe.executors.local import LocalExecutor

_GRACE_S = 10.0
"""Seconds in which a step ends by itself once its run is gone."""


class _RunPipe:
    """The run, seen from the process of a step."""

    def __init__(self) -> None:
        """Take standard input and output away from everybody else: what libraries print goes to standard error."""
        self._output: IO[str] = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        self._input: IO[str] = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, sys.stdin.fileno())
        os.close(nothing)
        self._answers = queue.SimpleQueue[bool]()
        self._tasks = queue.SimpleQueue[str]()
        self._received, self._finished = 0, 0
        """Tasks that came, and those that are over."""
        threading.Thread(target=self._read, daemon=True).start()

    def read_task(self) -> StepTask | None:
        """The next task; None when there is no further one."""
        line = self._tasks.get()
        return StepTask.model_validate_json(line) if line else None

    def finish(self, message: dict[str, Any]) -> None:
        """Say how a step ended."""
        self._finished += 1
        self.send(message)

    def send(self, message: dict[str, Any]) -> None:
        """Write one line."""
        self._output.write(json.dumps(message, ensure_ascii=False) + "\n")
        self._output.flush()

    def hear(self, event: RunEvent) -> bool:
        """Pass an event on; returns what the run answers to progress."""
        self.send({"event": event.as_json()})
        return event.kind == "progress" and self._answers.get()

    def _read(self) -> None:
        """Read tasks and answers; at their end, end the step that is being made."""
        for line in self._input:
            if line.startswith('{"stop":'):
                self._answers.put(bool(json.loads(line)["stop"]))
            else:
                self._received += 1
                self._tasks.put(line)
        self._tasks.put("")
        self._answers.put(True)
        if self._received > self._finished:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_GRACE_S)
            os._exit(Interrupted.exit_code)


def main() -> int:
    """Make the artifacts of all tasks; returns the exit code of the last."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle_stop_signal)
    set_thread_wait_policy()
    pipe, code = _RunPipe(), 0
    try:
        while (task := pipe.read_task()) is not None:
            code = _make(task, pipe)
    except KeyboardInterrupt:
        pipe.finish({"interrupted": True})
        return Interrupted.exit_code
    return code


def _make(task: StepTask, pipe: _RunPipe) -> int:
    try:
        plan, planned = task.open()
        LocalExecutor().make_artifact(plan, planned, RunEventEmitter(pipe.hear))
    except LuthierError as error:
        pipe.finish(error.as_json())
        return error.exit_code
    pipe.finish({"artifact": planned.digest})
    return 0


if __name__ == "__main__":
    sys.exit(main())
