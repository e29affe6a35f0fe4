"""Requests that come together are computed together: one thread takes all that wait, up to a number, in one call."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

from luthier.core.errors import LuthierError
from luthier.serve.refusal import Busy, Unavailable

Asked = TypeVar("Asked")
Found = TypeVar("Found")


class _One(Generic[Asked, Found]):
    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Found] = self.loop.create_future()
        self.over = False

    def tell(self, found: Found | None, error: Exception | None = None) -> None:
        """Called from the thread."""
        self.over = True
        try:
            self.loop.call_soon_threadsafe(self._set, found, error)
        except RuntimeError:
            return  # the loop is closed: nobody listens any more

    def _set(self, found: Found | None, error: Exception | None) -> None:
        if self.future.done():
            return  # whoever asked has gone
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(cast("Found", found))


class Gathering(Generic[Asked, Found]):
    """Answers what is asked one by one with a function that answers many at once."""

    def __init__(self, work: Callable[[Sequence[Asked]], Sequence[Found]], *, at_once: int, waiting: int) -> None:
        self._work, self._at_once, self._most = work, at_once, waiting
        self._line: deque[_One[Asked, Found]] = deque()
        self._lock = threading.Condition()
        self._closing = False
        self.running = 0
        """Requests that are being computed."""
        self._thread = threading.Thread(target=self._run, name="luthier-gathering", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._line)

    async def ask(self, asked: Asked) -> Found:
        """The answer to one; `Busy` when too many wait."""
        one: _One[Asked, Found] = _One(asked)
        with self._lock:
            if self._closing:
                raise Unavailable("the model is being closed")
            if len(self._line) >= self._most:
                raise Busy(f"{len(self._line)} requests wait already", retry_after_s=1.0)
            self._line.append(one)
            self._lock.notify()
        try:
            return await one.future
        finally:
            one.over = True

    def close(self) -> None:
        """End the thread; whoever waits is told."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join()

    def _run(self) -> None:
        while some := self._next():
            found, error = self._tried(some)
            if error is None or len(some) == 1:
                self._tell(some, found, error)
            else:  # one of them may be to blame: nobody pays for what a stranger asked
                for one in some:
                    self._tell([one], *self._tried([one]))
            self.running = 0
        for one in self._line:
            one.tell(None, Unavailable("the model was closed"))

    def _tried(self, some: Sequence[_One[Asked, Found]]) -> tuple[Sequence[Found], Exception | None]:
        try:
            return self._work([one.asked for one in some]), None
        except Exception as error:  # noqa: BLE001  # it is told to whoever asked
            return (), error

    def _tell(self, some: Sequence[_One[Asked, Found]], found: Sequence[Found], error: Exception | None) -> None:
        if error is not None:
            for one in some:
                one.tell(None, _told(error))
        else:
            for one, answer in zip(some, found, strict=True):
                one.tell(answer)

    def _next(self) -> list[_One[Asked, Found]]:
        """Those whose turn it is; empty when it is time to end. Whoever has gone is passed over."""
        with self._lock:
            while True:
                while not (self._line or self._closing):
                    self._lock.wait()
                if self._closing:
                    return []
                some: list[_One[Asked, Found]] = []
                while self._line and len(some) < self._at_once:
                    one = self._line.popleft()
                    if not one.over:
                        some.append(one)
                if some:
                    self.running = len(some)
                    return some


def _told(error: Exception) -> Exception:
    return error if isinstance(error, LuthierError) else Unavailable(f"{type(error).__name__}: {error}", status=500)
