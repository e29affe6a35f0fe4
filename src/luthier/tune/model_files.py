"""Files of a tuned model: a full model in Hugging Face's layout, or an adapter that has an effect."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, SourceLocation
from luthier.models.describe import read_json_object
from luthier.models.load import ADAPTER
from luthier.models.sequence_head import ends_in_sequence_head, get_head_config
from luthier.models.source import write_config_dtype
from luthier.tune.technique import write_settings

WEIGHTS = "adapter_model.safetensors"
_UP = ("lora_B", "lora_embedding_B")
"""Factors of a low-rank product that start at zero: while all of them are zero, the adapter changes nothing."""
_LOWER = "lower learning_rate"
_HIGHER = "raise learning_rate, or train for more steps"
_TARGETS = "name layers of this model in technique.target_modules"
TRAVELS: tuple[str, ...] = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json", "processor_config.json",
    "preprocessor_config.json", "LICENSE", "model.json",
)  # fmt: skip
"""Files next to the weights that belong to a model and are copied unchanged."""


def refuse_empty_adapter(folder: Path) -> None:
    """Raise `ModelError` when the adapter in a folder, if any, has no weights, only zeros in B, or a NaN."""
    from safetensors import safe_open

    path = folder / ADAPTER / WEIGHTS
    if not path.is_file():
        return
    ups, heads = list[bool](), list[bool]()
    numbers = 0
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            weight = file.get_tensor(name)
            numbers += weight.numel()
            if not bool(weight.isfinite().all()):
                raise ModelError(
                    f"{name} of the adapter is not finite", where=SourceLocation(file=str(path)), hint=_LOWER
                )
            if any(part in name for part in _UP):
                ups.append(bool(weight.any()))
            elif "lora_" not in name:
                heads.append(bool(weight.any()))
    if not numbers:
        raise ModelError("the adapter holds no weights", where=SourceLocation(file=str(path)), hint=_TARGETS)
    if ups and not any(ups + heads):  # in its first step a head that begins at zero learns alone
        raise ModelError(
            "the adapter does nothing: all its B are zero", where=SourceLocation(file=str(path)), hint=_HIGHER
        )


def write_full_model(model: Any, folder: Path, base: Path) -> None:
    """Write all weights to one safetensors file and copy all other files from the base; tied weights stay tied."""
    from safetensors.torch import save_file

    state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    for tied in sorted(getattr(model, "_tied_weights_keys", None) or ()):
        source = next(
            (key for key, value in state.items() if _share_memory(value, state.get(tied)) and key != tied), None
        )
        if source is not None:
            del state[tied]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if ends_in_sequence_head(model):
        write_settings(folder / "config.json", {**read_json_object(base / "config.json"), **get_head_config(model)})
    else:
        shutil.copyfile(base / "config.json", folder / "config.json")
    write_config_dtype(folder)
    for file in TRAVELS:
        if (base / file).is_file():
            shutil.copyfile(base / file, folder / file)


def _share_memory(one: Any, other: Any) -> bool:
    return other is not None and one.data_ptr() == other.data_ptr() and one.shape == other.shape
