"""Work that one thread does for another: what comes of it, a fault included, is found where it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def fulfil(found: Future[T], work: Callable[[], T]) -> None:
    """Do some work here; its result, or what it raises, is the future's."""
    try:
        found.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it is raised again where the work was asked for
        found.set_exception(error)
