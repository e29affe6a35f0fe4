"""How many tokens and patches pictures and sounds come to, told by a model's files alone, without torch."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings, find_family


def count_image(folder: Path, width: int, height: int) -> ImageCount | None:
    """What a picture of so many pixels comes to for the model in a folder; None for one of text.

    For a type of models that no family names it is guessed from the encoder's own size.
    """
    settings, most = _read(folder)
    if settings is None or not settings.vision:
        return None
    if most is not None and width * height > most:
        share = (most / (width * height)) ** 0.5
        width, height = max(1, int(width * share)), max(1, int(height * share))
    family = find_family(str(settings.config.get("model_type"))) or MediaFamily()
    return family.count_image(settings, width, height)


def count_sound(folder: Path, seconds: float) -> ImageCount | None:
    """What a sound of so many seconds comes to for the model in a folder; None for one that hears nothing.

    For a type of models that no family names it is guessed.
    """
    settings, _ = _read(folder)
    if settings is None or not settings.audio:
        return None
    most = _object(folder / "model.json").get("max_seconds")
    family = find_family(str(settings.config.get("model_type"))) or MediaFamily()
    return family.count_sound(settings, seconds if most is None else min(seconds, most))


@lru_cache(maxsize=4)
def _read(folder: Path) -> tuple[MediaSettings | None, int | None]:
    """What a folder's files say of pictures, and the most pixels that its `model.json` allows."""
    config, processor, images, card = (
        _object(folder / name)
        for name in ("config.json", "processor_config.json", "preprocessor_config.json", "model.json")
    )
    if not any(config.get(name) for name in ("vision_config", "audio_config", "encoder_config")):
        return None, None
    return MediaSettings(config, processor, processor.get("image_processor") or images), card.get("max_pixels")


def _object(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def estimate_tower_bytes(folder: Path, patches: float, width: int) -> int:
    """Bytes that autograd keeps of an encoder between forward and backward (`width` bytes a number).

    Per patch of a layer, in numbers: the inputs of two norms and of what follows them (4 hidden), queries, keys, values
    and the attention's result (4 hidden), and the MLP before and after its activation (2 intermediate).
    """
    settings, _ = _read(folder)
    if settings is None:
        return 0
    encoder_settings = settings.vision or settings.audio
    hidden = int(next((encoder_settings[name] for name in _WIDTHS if encoder_settings.get(name)), 1024))
    layers = int(next((encoder_settings[name] for name in _DEPTHS if encoder_settings.get(name)), 24))
    inner = int(encoder_settings.get("intermediate_size") or encoder_settings.get("encoder_ffn_dim") or 4 * hidden)
    return int(patches * layers * (8 * hidden + 2 * inner) * width)


_WIDTHS, _DEPTHS = (
    ("hidden_size", "embed_dim", "d_model", "hidden_dim"),
    ("num_hidden_layers", "depth", "encoder_layers"),
)
"""What encoders call the width of their states and the number of their layers."""
