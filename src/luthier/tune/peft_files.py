"""An adapter's folder as PEFT reads it: the same weights make the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.models.load import ADAPTER
from luthier.tune.technique import write_settings


def write_adapter(
    model: Any, folder: Path, name: str, weights: Mapping[str, Any] | None = None, **changes: Any
) -> None:
    """Write `adapter/` into a folder: the active adapter's weights (or other ones) and its settings with `changes`.

    `name` is what people call the base.
    """
    from safetensors.torch import save_file

    adapter_dir = folder / ADAPTER
    adapter_dir.mkdir()
    found = adapter_weights(model) if weights is None else weights
    save_file(
        {key: value.detach().contiguous() for key, value in found.items()}, adapter_dir / "adapter_model.safetensors"
    )
    settings = model.peft_config[model.active_adapter].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    base = {"base_model_name_or_path": name, "inference_mode": True}
    write_settings(adapter_dir / "adapter_config.json", {**plain, **base, **changes})


def adapter_weights(model: Any) -> dict[str, Any]:
    """The active adapter's weights by PEFT's names, without a head or embeddings of the base, which never change."""
    from peft import get_peft_model_state_dict

    found: dict[str, Any] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return found
