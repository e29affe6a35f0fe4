"""The base of the soft-prompt techniques: PEFT's wrapper, initialized from the seed alone, and the ids of an initial
text.
"""

from __future__ import annotations

from typing import Any

from luthier.core.errors import InputError, SourceLocation
from luthier.models.describe import ModelDescription, estimate_training_memory
from luthier.models.quiet import silence_peft_warnings

HEAD_ROWS = 256
"""Positions for which the output head computes logits at once."""


def wrap_with_peft(model: Any, config: Any, seed: int) -> Any:
    """Return PEFT's model over a frozen one, with an fp32 encoder of virtual tokens initialized from the seed."""
    import torch
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), silence_peft_warnings():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def estimate_footprint(kind: str, model: ModelDescription, trainable: int, tokens: int, virtual_tokens: int) -> int:
    """Return the bytes at the peak: frozen weights, trainable weights with AdamW, and autograd's saved tensors of a
    pack with the virtual tokens.
    """
    return estimate_training_memory(model, kind, trainable, tokens + virtual_tokens, head_rows=HEAD_ROWS).total


def choose_initial_token_ids(model: Any, text: str | None, count: int, seed: int, field: str = "text") -> Any:
    """Return (count,) token ids to initialize the virtual tokens from: those of a text, repeated, or random ones by the
    seed.

    Errors name the setting `field` of the technique.
    """
    import torch

    device = model.device
    if text is None:
        chance = torch.Generator().manual_seed(seed)
        return torch.randint(model.get_input_embeddings().num_embeddings, (count,), generator=chance).to(device)
    ids = _ids(model, text)
    if not 0 < len(ids) <= count:
        hint = (
            f"set `num_virtual_tokens: {len(ids)}`, or shorten the text"
            if ids
            else "write the text, or choose another init"
        )
        raise InputError(
            f"the text has {len(ids)} tokens, and the prompt {count}",
            where=SourceLocation(field=f"technique.{field}"),
            hint=hint,
        )
    return torch.tensor(ids * -(-count // len(ids)), device=device)[:count]


def _ids(model: Any, text: str) -> list[int]:
    """Return the token ids of a text; transformers records in a model where its tokenizer came from."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path, local_files_only=True, trust_remote_code=False)
    return list(tokenizer(text)["input_ids"])


def validate_init_text(init: str, text: str | None, prefix: str = "") -> None:
    """Raise `ValueError` unless a text is given exactly when initialization from text is chosen; `prefix` is that of
    the settings' names.
    """
    if (init == "text") != (text is not None):
        name = f"{prefix}init_text" if prefix else "text"
        raise ValueError(f"`{name}` goes with `{prefix}init: text`, and only with it")
