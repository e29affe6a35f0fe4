"""Silence on the terminal while transformers works: the library speaks through events, never through bars.

Transformers opens one model at a time: meanwhile it changes what all threads of the process share (the default dtype,
how weights begin and are tied, its bars).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def no_bars() -> Iterator[None]:
    """Switch transformers' progress bars and warnings off, and back on afterwards; what they say is asked for.

    Another thread that opens a model waits for its turn.
    """
    with _ONE_AT_A_TIME:
        yield from _silent()


def _silent() -> Iterator[None]:
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
