"""How much this machine can hold, and how many tokens fit into one pack: the same answer each time on one machine."""

from __future__ import annotations

import os
from pathlib import Path

from luthier.models.describe import Description, attention_bytes
from luthier.models.foresight import BASE_BYTES, has_tile_attention
from luthier.models.load import cpu_has_bf16
from luthier.models.speed import cores
from luthier.tune.optimizer import Optimizer
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.technique import AnyTechnique

SHARE = 0.5
"""Part of the machine's memory that one training may fill."""
MOST_TOKENS = 16_384
"""Beyond this, larger packs win nothing more."""
LEAST_TOKENS = 256
KEYS = 256.0
"""How many tokens one sees on average, where rows are not known: half a row of 512."""
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_bytes() -> int:
    """Memory of this machine or container: what is there, not what is free just now."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _LIMITS:
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            found = min(found, int(text))
    return found


def device_bytes() -> int:
    """Memory of what the model is placed on: a GPU's own, or the machine's."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return machine_bytes()


def footprint(
    technique: AnyTechnique, optimizer: Optimizer, model: Description, tokens: int, keys: float = KEYS
) -> int:
    """Bytes at the peak: the technique's, which counts AdamW's moments, with those of this optimizer in their place.

    `tokens` stand in one pack, and each sees `keys` others on average.
    """
    moving = technique.trainable(model)
    outer = model.embedding_parameters if moving > model.parameters - model.embedding_parameters else 0
    width = model.hidden_size
    shapes = {"embed_tokens": (outer // width, width), "layers": ((moving - outer) // width, width)}
    saved = AdamW().state_bytes(shapes) - optimizer.state_bytes(shapes)
    beside = moving * model.weight_bytes // max(1, model.parameters) if cores() > 1 else 0  # gradients of a second pack
    shares = 0 if model.dtype == "bfloat16" and has_tile_attention(model) else attention_bytes(model, tokens, keys)
    return BASE_BYTES + technique.footprint(model, tokens) + shares + beside - saved


def computing_in(model: Description, precision: str) -> Description:
    """The model as it lies in memory: in the numbers that it computes in."""
    wide = precision == "float32" or (precision == "auto" and not cpu_has_bf16())
    return model.model_copy(
        update={"dtype": "float32" if wide else "bfloat16", "weight_bytes": model.parameters * (4 if wide else 2)}
    )


def tokens_that_fit(technique: AnyTechnique, optimizer: Optimizer, model: Description) -> int:
    """Tokens of the largest pack that fits into this machine's share; at least `LEAST_TOKENS`."""
    fixed = footprint(technique, optimizer, model, 0)
    each = (footprint(technique, optimizer, model, 1 << 20) - fixed) / (1 << 20)
    room = int((device_bytes() * SHARE - fixed) / each)
    return max(LEAST_TOKENS, min(MOST_TOKENS, room))
