"""Work that must end in time: what hangs is stopped, and its name told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import FrameType
from typing import TypeVar

from luthier.core.errors import LuthierError
from luthier.core.promised import fulfil

T = TypeVar("T")


class Failed(Exception):
    """Somebody else's part failed, in whatever way; its text says how."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """Do some work; `TimeoutError` when it takes longer.

    In the main thread it is interrupted between two of its own instructions, or within a regular expression. Anywhere
    else, where nothing can interrupt it, it is left to itself in a thread that nobody waits for.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return _interrupted(seconds, work)
    return _left_alone(seconds, work)


def tried(seconds: float, work: Callable[[], T]) -> T:
    """The same for parts that may be anybody's: whatever goes wrong there is `Failed`, a fault that Luthier names
    itself aside."""
    try:
        return within(seconds, work)
    except LuthierError:
        raise
    except Exception as error:
        raise Failed(f"{type(error).__name__}: {error}") from error


def _interrupted(seconds: float, work: Callable[[], T]) -> T:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(_late(seconds))

    before = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


def _left_alone(seconds: float, work: Callable[[], T]) -> T:
    found = Future[T]()
    threading.Thread(target=fulfil, args=(found, work), daemon=True).start()
    if not wait([found], timeout=seconds).done:
        raise TimeoutError(_late(seconds))
    return found.result()


def _late(seconds: float) -> str:
    return f"no end after {seconds:g} s"
