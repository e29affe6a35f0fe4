"""The process that explains answers for a server: one request a line on standard input, one reply a line.

It has a low priority and half of the cores, so that answers are written meanwhile, and the system ends it when a
request takes longer than it may. The weights of the last model stay for the next request.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from luthier.chat.messages import Message
from luthier.core.errors import LuthierError, OutOfMemory

if TYPE_CHECKING:
    from luthier.models.lm.local import ModelCache

NICENESS = 10


class ExplanationTask(BaseModel):
    """A server's request to this process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    """The folder of the store that holds the model."""
    shared: str
    """The folder of the user's store of base models."""
    digest: str
    messages: tuple[Message, ...] | None = None
    row: str | None = None
    """A row of the model's training data, in place of messages."""
    options: dict[str, Any] = {}
    """Fields of `ExplainOptions`."""
    max_tokens: int
    deadline_s: float


def explain_task(task: ExplanationTask, cache: ModelCache) -> dict[str, Any]:
    """Explain one answer; a user's mistake returns `{"error": …}`."""
    from luthier.commands.explain import explain
    from luthier.core.store import Store

    try:
        store = Store(Path(task.store), shared=Store(Path(task.shared)))
        found = explain(
            store.open(task.digest), messages=task.messages, row=task.row, cache=cache, max_tokens=task.max_tokens,
            **task.options,
        )  # fmt: skip
        return found.as_json()
    except LuthierError as error:
        return error.as_json()
    except MemoryError:
        return OutOfMemory("this machine has no memory left to explain that").as_json()


def main() -> None:
    """Explain until standard input ends."""
    import torch

    from luthier.models.lm.local import ModelCache

    os.nice(NICENESS)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing else is written where replies are read
    cache = ModelCache()
    for line in sys.stdin:
        task = ExplanationTask.model_validate_json(line)
        signal.setitimer(signal.ITIMER_REAL, task.deadline_s)  # its signal ends the process
        print(json.dumps(explain_task(task, cache)), file=replies, flush=True)
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
