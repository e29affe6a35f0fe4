"""The processes of one run: a job is a function of a module and plain values; what jobs make comes back in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from luthier.core.process import reuse_memory
from luthier.data.passes.collector import keep_quiet

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

Made = TypeVar("Made")
_WAITING = 3
"""Jobs for each process that are asked for ahead: memory is bounded by them."""


class Workers:
    """Processes that start with the first job and end with the run; with one, jobs are done in this process."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, job: Callable[..., Made], asked: Iterable[tuple[Any, ...]]) -> Iterator[Made]:
        """What the job makes of each, in order."""
        if self.count <= 1:
            for values in asked:
                yield job(*values)
            return
        waiting: deque[Future[Made]] = deque()
        for values in asked:
            waiting.append(self._started().submit(job, *values))
            if len(waiting) > _WAITING * self.count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import multiprocessing
            from concurrent.futures import ProcessPoolExecutor

            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_begin)
        return self._pool


def _begin() -> None:
    """What a worker does first; one that is left alone by a kill of its run ends, too, in the midst of its job."""
    import threading

    keep_quiet()
    reuse_memory()
    threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    import multiprocessing

    if (run := multiprocessing.parent_process()) is not None:
        run.join()
    os._exit(1)
