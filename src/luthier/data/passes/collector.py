"""The collector of cycles kept quiet while rows stream: they hold no cycles, and it would look at them all again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_OBJECTS = 50_000
"""So many more objects than before, in place of 700, before young ones are looked at: about two batches."""


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Look seldom; afterwards all is as it was. What was there before is not frozen: it may become garbage meanwhile,
    and thawing would take back what somebody else has frozen."""
    thresholds = gc.get_threshold()
    _look_seldom()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def keep_quiet() -> None:
    """Look seldom, and never at what was there before, for the rest of a process, as a worker has it."""
    gc.freeze()
    _look_seldom()


def _look_seldom() -> None:
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
