"""Several LoRA adapters over one loaded base: which models can share it, and adding and removing adapters while others
are in use.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.models.describe import read_json_object
from luthier.models.load import (
    ADAPTER,
    build_adapter_config,
    check_adapter_fits,
    get_output_classes,
    get_quantization_scheme,
    get_weights_artifact,
    is_adapter,
)

_LORA = re.compile(r"base_model\.model\.(?P<module>.{1,500})\.lora_[AB]\.weight")
_NUMBERED = re.compile(r".\.\d{1,6}\..")
_FREE = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "peft_version", "r", "rank_pattern",
    "revision", "target_modules", "task_type", "use_rslora",
})  # fmt: skip
"""LoRA settings that may have any value for a shared base."""


def can_share_base(artifact: Artifact) -> bool:
    """Return whether a model can share a loaded base: a full model, or plain LoRA in the layers of one."""
    own = get_weights_artifact(artifact)
    if not is_adapter(own):
        return True
    folder = own.folder / ADAPTER
    return (
        get_quantization_scheme(own) is None
        and not get_output_classes(own)
        and _is_plain(folder)
        and _is_in_layers(folder)
    )


def add_adapter(model: Any, folder: Path, name: str) -> Any:
    """Add an adapter to PEFT's model; `ModelError`, with the model unchanged, when it does not fit."""
    from peft import PeftModel, PeftModelForCausalLM

    with check_adapter_fits(folder):
        config = build_adapter_config(model, folder)
        if isinstance(model, PeftModel):
            whole = model
            whole.add_adapter(name, config)
        else:
            whole = PeftModelForCausalLM(model, config, adapter_name=name)
        try:
            device = str(next(whole.parameters()).device)
            result = whole.load_adapter(str(folder), name, is_trainable=False, torch_device=device)
            if missing := [key for key in result.missing_keys if f".{name}." in key]:
                raise ValueError(f"{missing[0]} is missing")
        except (ValueError, RuntimeError, KeyError):
            remove_adapter(whole, name)
            raise
    return whole.eval()


def remove_adapter(model: Any, name: str) -> Any:
    """Remove an adapter; returns the plain model when it was the last."""
    if list(model.peft_config) == [name]:
        return model.unload()
    if model.active_adapter == name:
        model.set_adapter(next(other for other in model.peft_config if other != name), inference_mode=True)
    model.delete_adapter(name)
    return model


def _is_plain(folder: Path) -> bool:
    from peft import LoraConfig

    config = read_json_object(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA" or config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        return False
    usual = LoraConfig().to_dict()
    odd = config.keys() - _FREE - {"peft_type", "init_lora_weights"}
    return all((config[name] or None) == (usual.get(name) or None) for name in odd)


def _is_in_layers(folder: Path) -> bool:
    from safetensors import safe_open

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return False
    with safe_open(file, framework="np") as weights:
        return all(map(_is_in_layer, weights.keys()))


def _is_in_layer(key: str) -> bool:
    """Return whether an adapter's weight belongs to a numbered layer."""
    match = _LORA.fullmatch(key)
    return match is not None and _NUMBERED.search(match["module"]) is not None
