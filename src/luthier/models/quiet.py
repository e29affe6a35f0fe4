"""Silence on the terminal while transformers works: the library speaks through events, never through bars."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial


@contextmanager
def no_bars() -> Iterator[None]:
    """Switch transformers' progress bars off, and back on afterwards when they were on."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
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
    """Silence while PEFT wraps a model: it still asks transformers 5.24 for a property by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield
