"""Silence on the terminal while transformers works: the library speaks through events, never through bars.

Transformers opens one model at a time: meanwhile it changes what all threads of the process share (the default dtype,
how weights begin and are tied, its bars).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

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


@contextmanager
def no_gguf_bar() -> Iterator[None]:
    """The same for transformers' GGUF reader, which has a bar of its own that no setting reaches."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=True)
    try:
        with no_bars():
            yield
    finally:
        reader.tqdm = bar


@contextmanager
def no_peft_warning() -> Iterator[None]:
    """Silence while PEFT wraps or asks a model, about what it does itself and does right.

    It calls two things of transformers 5.24 by their old names; it looks for fused experts among modules, where they
    are parameters; it finds out for itself that GPT-2's layers are transposed; it is told how to adapt our quantised
    layers, and warns of them all the same.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="`past_key_values` is deprecated", category=FutureWarning)
        warnings.filterwarnings(
            "ignore", message=r"The following (rank|alpha)_pattern keys did not", category=RuntimeWarning
        )
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        warnings.filterwarnings("ignore", message="Unsupported layer type '<class 'luthier", category=UserWarning)
        yield
