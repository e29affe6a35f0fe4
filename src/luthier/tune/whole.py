"""A tuned model's whole folder as Hugging Face reads it: the same weights make the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from luthier.models.describe import read_object
from luthier.models.sequence import head_settings, is_sequence
from luthier.models.source import tell_dtype
from luthier.tune.technique import write_settings

TRAVELS: tuple[str, ...] = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json", "LICENSE", "model.json",
)  # fmt: skip
"""Files beside the weights that belong to a model: they go along unchanged."""


def write_whole(model: Any, folder: Path, base: Path) -> None:
    """Write all weights in one safetensors file, and copy everything else from the base; tied weights stay tied."""
    from safetensors.torch import save_file

    state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    for tied in sorted(getattr(model, "_tied_weights_keys", None) or ()):
        source = next((key for key, value in state.items() if _same(value, state.get(tied)) and key != tied), None)
        if source is not None:
            del state[tied]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if is_sequence(model):
        write_settings(folder / "config.json", {**read_object(base / "config.json"), **head_settings(model)})
    else:
        shutil.copyfile(base / "config.json", folder / "config.json")
    tell_dtype(folder)
    for file in TRAVELS:
        if (base / file).is_file():
            shutil.copyfile(base / file, folder / file)


def _same(one: Any, other: Any) -> bool:
    return other is not None and one.data_ptr() == other.data_ptr() and one.shape == other.shape
