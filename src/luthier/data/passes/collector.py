"""The collector of cycles kept quiet while rows stream: they hold no cycles, and it would look at them all again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_OBJECTS = 50_000
"""So many more objects than before, in place of 700, before young ones are looked at: about two batches."""


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Look seldom, and never at what was there before; afterwards all is as it was."""
    thresholds, was_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    keep_quiet()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not was_frozen:  # thawing would take back what somebody else has frozen
            gc.unfreeze()


def keep_quiet() -> None:
    """The same for the rest of a process, as a worker has it."""
    gc.freeze()
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
