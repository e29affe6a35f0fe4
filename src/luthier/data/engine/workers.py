"""Worker processes that run the operators, and control of the garbage collector.

A job is a function of a module with plain values as arguments; results come back in order. The garbage collector is
restrained while rows stream: rows hold no reference cycles, and each collection would scan them all again.
"""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count as numbers
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from luthier.core.files import translate_write_errors
from luthier.core.system.process import raise_malloc_thresholds

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

_OBJECTS = 50_000
"""So many more objects than before, in place of 700, before young ones are looked at: about two batches."""


@contextmanager
def relaxed_garbage_collection() -> Iterator[None]:
    """Look seldom; afterwards all is as it was. What was there before is not frozen: it may become garbage meanwhile,
    and thawing would take back what somebody else has frozen."""
    thresholds = gc.get_threshold()
    _look_seldom()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def relax_garbage_collection() -> None:
    """Look seldom, and never at what was there before, for the rest of a process, as a worker has it."""
    gc.freeze()
    _look_seldom()


def _look_seldom() -> None:
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])


Result = TypeVar("Result")
_WAITING = 3
"""Jobs for each process that are asked for ahead: memory is bounded by them."""
_AT_HAND = 3
"""Jobs that each other process has, the one that it is at among them, before this one does a job itself."""


class Workers:
    """This process and others, which start with the first job and end with the run; with one, all is done here.

    This process works like the others whenever they have enough to do. Jobs and what they make are handed over in
    files: a pipe holds 64 KB, and who writes more into it waits until the other end has the time to read.
    """

    def __init__(self, count: int = 1, scratch: Path | None = None) -> None:
        """`scratch` is a folder for those files, there when the first job is; None: where the system keeps such."""
        self.count = count
        self._scratch = scratch
        self._folder = Path()
        self._numbers = numbers()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    def map(
        self, job: Callable[..., Result], arg_tuples: Iterable[tuple[Any, ...]], most: int | None = None
    ) -> Iterator[Result]:
        """What the job makes of each, in order; at most so many are done at the same time."""
        if self.count <= 1:
            for values in arg_tuples:
                yield job(*values)
            return
        waiting: deque[_Task[Result]] = deque()
        ahead = _AT_HAND * (self.count - 1) if most is None else min(_AT_HAND * (self.count - 1), most - 1)
        for values in arg_tuples:
            waiting.append(_Task(job, values))
            if sum(not task.is_done() for task in waiting) <= ahead:
                waiting[-1].hand(self._started(), self._folder / str(next(self._numbers)))
            else:
                waiting[-1].do()
            while waiting and (waiting[0].is_done() or len(waiting) > _WAITING * self.count):
                yield _first(waiting)
        while waiting:
            yield _first(waiting)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import multiprocessing
            from concurrent.futures import ProcessPoolExecutor

            with translate_write_errors(self._scratch or tempfile.gettempdir()):
                self._folder = Path(tempfile.mkdtemp(dir=self._scratch, prefix="luthier.jobs."))
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count - 1, mp_context=context, initializer=_begin)
        return self._pool


class _Task(Generic[Result]):
    """One job: handed to another process, or done here."""

    def __init__(self, job: Callable[..., Result], values: tuple[Any, ...]) -> None:
        self._asked = job, values
        self._place: Path | None = None
        self._future: Future[Any] | None = None

    def hand(self, pool: ProcessPoolExecutor, path: Path) -> None:
        """Let another process do it, which finds it in a file."""
        with translate_write_errors(path):
            path.write_bytes(pickle.dumps(self._asked, pickle.HIGHEST_PROTOCOL))
        self._place = path
        self._future = pool.submit(_do, path)

    def do(self) -> None:
        """Do it here; an error waits for its turn."""
        from concurrent.futures import Future

        self._place = None
        self._future = Future()
        job, values = self._asked
        try:
            self._future.set_result(job(*values))
        except Exception as error:  # noqa: BLE001  # it is raised when its turn comes
            self._future.set_exception(error)

    def take_back(self) -> bool:
        """Do it here after all, unless another process has begun: whoever takes the file away does the job."""
        if self._place is None:
            return False
        try:
            self._place.unlink()
        except FileNotFoundError:
            return False
        self.do()
        return True

    def is_done(self) -> bool:
        """Whether nobody need wait for it."""
        return self._future is not None and self._future.done()

    def result(self) -> Result:
        """What was made, or the error."""
        assert self._future is not None
        made: Result = self._future.result()
        if self._place is not None:
            written = self._place.with_suffix(".made")
            made = pickle.loads(written.read_bytes())  # noqa: S301  # nobody else can write into the folder
            written.unlink()
        return made


def _first(waiting: deque[_Task[Result]]) -> Result:
    """What the first job makes; until it is there, this process does what no other has begun."""
    while not waiting[0].is_done() and any(task.take_back() for task in waiting):
        pass
    return waiting.popleft().result()


def _do(path: Path) -> None:
    """Do the job in a file, unless the run has taken it back."""
    taken = path.with_suffix(".taken")
    try:
        path.rename(taken)
    except FileNotFoundError:
        return
    job, values = pickle.loads(taken.read_bytes())  # noqa: S301  # nobody else can write into the folder
    taken.unlink()
    made = pickle.dumps(job(*values), pickle.HIGHEST_PROTOCOL)
    with translate_write_errors(path):
        path.with_suffix(".made").write_bytes(made)


def _begin() -> None:
    """What a worker does first; one that is left alone by a kill of its run ends, too, in the midst of its job."""
    import threading

    relax_garbage_collection()
    raise_malloc_thresholds()
    threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    import multiprocessing

    if (run := multiprocessing.parent_process()) is not None:
        run.join()
    os._exit(1)
