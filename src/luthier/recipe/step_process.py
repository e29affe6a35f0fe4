"""`python -m luthier.recipe.step_process`: make the artifact of the step whose `StepTask` comes on standard input.

Lines of JSON go to standard output: `{"event": …}` for each event, and at the end `{"artifact": DIGEST}`,
`{"error": …}` or `{"interrupted": true}`. To each event of progress `{"stop": true}` or `{"stop": false}` is read from
standard input; its end means that the run is gone, and the step ends as by Ctrl-C. The caller holds the step's lock.
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
from luthier.core.system.process import request_stop, set_thread_wait_policy
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

    def read_task(self) -> StepTask:
        """The first line; all after it are answers."""
        task = StepTask.model_validate_json(self._input.readline())
        threading.Thread(target=self._read_answers, daemon=True).start()
        return task

    def send(self, message: dict[str, Any]) -> None:
        """Write one line."""
        self._output.write(json.dumps(message, ensure_ascii=False) + "\n")
        self._output.flush()

    def hear(self, event: RunEvent) -> bool:
        """Pass an event on; returns what the run answers to progress."""
        self.send({"event": event.as_json()})
        return event.kind == "progress" and self._answers.get()

    def _read_answers(self) -> None:
        for line in self._input:
            self._answers.put(bool(json.loads(line)["stop"]))
        self._answers.put(True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        os._exit(Interrupted.exit_code)


def main() -> int:
    """Make the artifact; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
    set_thread_wait_policy()
    pipe = _RunPipe()
    try:
        plan, planned = pipe.read_task().open()
        LocalExecutor().make_artifact(plan, planned, RunEventEmitter(pipe.hear))
    except LuthierError as error:
        pipe.send(error.as_json())
        return error.exit_code
    except KeyboardInterrupt:
        pipe.send({"interrupted": True})
        return Interrupted.exit_code
    pipe.send({"artifact": planned.digest})
    return 0


if __name__ == "__main__":
    sys.exit(main())
