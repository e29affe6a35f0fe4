"""A wish to stop (Ctrl-C, a kill, a closed terminal) that stands until the program ends.

Python raises `KeyboardInterrupt` wherever the program happens to be. Where that is a finaliser, or a library that
catches everything, it is lost and the work goes on as if nobody had asked. So the wish is remembered, and what a step
says next raises it again.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_wishes: list[int] = []


def wish(signum: int, frame: FrameType | None = None) -> None:
    """Interrupt here, and once more at `heed` should nobody hear it; a handler of signals."""
    _wishes.append(signum)
    raise KeyboardInterrupt


def heed() -> None:
    """Interrupt if that was wished and lost; not while the interruption is on its way, nor in another thread."""
    if _wishes and threading.current_thread() is threading.main_thread() and not _is_on_its_way():
        raise KeyboardInterrupt


@contextmanager
def wishes_end() -> Iterator[None]:
    """Forget at the end what was wished: another command in the same process has not been told to stop."""
    try:
        yield
    finally:
        _wishes.clear()


def _is_on_its_way() -> bool:
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
