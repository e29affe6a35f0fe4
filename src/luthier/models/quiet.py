"""Silences library output that has no setting: the GGUF reader's progress bar, and some of PEFT's warnings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from luthier.core.system.process import hide_transformers_output


@contextmanager
def silence_gguf_progress() -> Iterator[None]:
    """Context manager: hide the progress bar of transformers' GGUF reader, which has no setting for it."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=True)
    try:
        with hide_transformers_output():
            yield
    finally:
        reader.tqdm = bar


@contextmanager
def silence_peft_warnings() -> Iterator[None]:
    """Silence PEFT's warnings about things that it handles correctly.

    It uses two old names of transformers 5.24; it looks for fused experts among modules, where they are parameters; it
    detects itself that GPT-2's layers are transposed; it warns of quantized layers although it is told how to adapt
    them; and nothing is merged at a head tied to the embeddings.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="`past_key_values` is deprecated", category=FutureWarning)
        warnings.filterwarnings(
            "ignore", message=r"The following (rank|alpha)_pattern keys did not", category=RuntimeWarning
        )
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`", category=UserWarning)
        warnings.filterwarnings("ignore", message="Unsupported layer type '<class 'luthier", category=UserWarning)
        yield
