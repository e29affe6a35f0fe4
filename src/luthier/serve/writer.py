"""A decoder in a thread of its own: asks wait in line, are written together, and are let go when nobody listens."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from luthier.core.errors import LuthierError
from luthier.core.promised import fulfil
from luthier.serve.refusal import Busy, Refusal, Unavailable, as_refusal

if TYPE_CHECKING:
    from luthier.models.decoder import Decoder
    from luthier.models.decoding.ask import Ask, Written

T = TypeVar("T")


class Told(NamedTuple):
    """What a listener hears: the next token, or why there will be none."""

    written: Written | None = None
    cached: int = 0
    """Prompt tokens that were found in the prefix cache."""
    refusal: Refusal | None = None


class Job:
    """One ask on its way."""

    def __init__(self, ask: Ask, tell: Callable[[Job, Told], None]) -> None:
        self.ask, self.tell = ask, tell
        self.came = time.monotonic()
        self.ticket: int | None = None
        self.cached: int | None = None
        self.over = False


class Writer:
    """Runs a decoder. All its methods may be called from any thread; `tell` is called from the writer's own."""

    def __init__(self, make: Callable[[], Decoder], *, waiting: int, at_once: int) -> None:
        """`make` opens the decoder, and another one should it fail; at most `waiting` asks wait for their turn."""
        self._make, self._most_waiting, self._at_once = make, waiting, at_once
        self._decoder = make()
        self._lock = threading.Condition()
        self._line: deque[Job] = deque()
        self._written: dict[int, Job] = {}
        self._gone: list[Job] = []
        self._works: deque[Callable[[Decoder], None]] = deque()
        self._closing = False
        self._pace_s = 1.0
        """Seconds that an ask took of late, from its coming to its end."""
        self._thread = threading.Thread(target=self._run, name="luthier-writer", daemon=True)
        self._thread.start()

    @property
    def context(self) -> int:
        """How many tokens the model reads at once."""
        return self._decoder.context

    @property
    def waiting(self) -> int:
        """Asks that are not begun."""
        return len(self._line)

    @property
    def running(self) -> int:
        """Asks that are being written."""
        return len(self._written)

    def submit(self, asks: Sequence[Ask], tell: Callable[[Job, Told], None]) -> list[Job]:
        """Take all of several asks in, or none: `Busy` when too many wait."""
        jobs = [Job(ask, tell) for ask in asks]
        with self._lock:
            if self._closing:
                raise Unavailable("the model is being closed")
            if len(self._line) + len(self._written) + len(jobs) > self._most_waiting + self._at_once:
                raise Busy(f"{len(self._line)} answers wait already", retry_after_s=self._retry_after_s())
            self._line.extend(jobs)
            self._lock.notify()
        return jobs

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Write no more for these; those that are over are let be."""
        with self._lock:
            left = [job for job in jobs if not job.over]
            if left:
                self._gone += left
                self._lock.notify()

    def work(self, verb: Callable[[Decoder], T]) -> T:
        """Do something with the decoder between two steps, in the writer's thread, and wait for what comes of it."""
        found = Future[T]()
        with self._lock:
            if self._closing:
                raise Unavailable("the model is being closed")
            self._works.append(lambda decoder: fulfil(found, lambda: verb(decoder)))
            self._lock.notify()
        return found.result()

    def close(self) -> None:
        """End everything, and the thread."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join()

    def _retry_after_s(self) -> float:
        return min(60.0, self._pace_s * (1 + len(self._line) / self._at_once))

    def _run(self) -> None:
        while self._await_work():
            while self._works:
                self._works.popleft()(self._decoder)
            try:
                self._admit()
                self._step()
            except Exception as error:  # noqa: BLE001  # a step concerns everybody in it: each is told, and the next begins anew
                self._fail(error)
        for work in self._works:  # came before the end was known
            work(self._decoder)
        self._decoder.close()
        for job in [*self._line, *self._written.values()]:
            self._end(job, Told(refusal=Unavailable("the model was closed")))

    def _await_work(self) -> bool:
        """Wait until there is something to do, and drop whom nobody listens to; False when it is time to end."""
        with self._lock:
            while not (self._line or self._written or self._gone or self._works or self._closing):
                self._lock.wait()
            gone, self._gone = self._gone, []
            for job in gone:
                job.over = True
                if job.ticket is not None:
                    self._written.pop(job.ticket, None)
            if gone:
                self._line = deque(job for job in self._line if not job.over)
            closing = self._closing
        for job in gone:
            if job.ticket is not None:
                self._decoder.cancel(job.ticket)
        return not closing

    def _admit(self) -> None:
        """Begin those whose turn it is, as long as there is room; what can never be begun is refused."""
        while len(self._written) < self._at_once and self._line:
            job = self._line[0]
            try:
                ticket = self._decoder.admit(job.ask)
            except LuthierError as error:
                self._leave(job)
                self._end(job, Told(refusal=as_refusal(error)))
                continue
            if ticket is None:
                if not self._written:  # nothing will ever make room
                    self._leave(job)
                    what = f"prompt and answer together have {len(job.ask.ids) + job.ask.max_new_tokens} tokens"
                    refusal = Refusal(f"{what}, more than the server's cache holds", param="max_tokens")
                    self._end(job, Told(refusal=refusal))
                    continue
                return
            self._leave(job)
            with self._lock:
                job.ticket = ticket
                self._written[ticket] = job

    def _leave(self, job: Job) -> None:
        with self._lock:
            self._line.remove(job)

    def _step(self) -> None:
        for written in self._decoder.step():
            job = self._written.get(written.ticket)
            if job is None:
                continue
            if job.cached is None:
                job.cached = self._decoder.cached_tokens(written.ticket)
            told = Told(written, job.cached)
            if written.finish is None:
                job.tell(job, told)
                continue
            self._pace_s += 0.2 * (time.monotonic() - job.came - self._pace_s)
            self._end(job, told)

    def _end(self, job: Job, told: Told) -> None:
        with self._lock:
            job.over = True
            if job.ticket is not None:
                self._written.pop(job.ticket, None)
        job.tell(job, told)

    def _fail(self, error: Exception) -> None:
        """Tell everybody who was being written, and go on with a new decoder."""
        for job in list(self._written.values()):
            refusal = Unavailable(f"writing failed: {type(error).__name__}", status=500)
            refusal.__cause__ = error
            self._end(job, Told(refusal=refusal))
        self._decoder.close()
        self._decoder = self._make()
