"""Token and patch counts of images and audio, from a model's files alone, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.chat.speech import SPEECH_TYPES
from luthier.models.describe import ModelDescription
from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings, find_family
from luthier.models.shapes import find_part, parse_layer_index


def count_image(settings: MediaSettings, width: int, height: int) -> ImageCount | None:
    """Count the tokens of an image by its pixels; None for a model without images.

    For an unknown family it is estimated from the encoder's own size.
    """
    if not settings.vision:
        return None
    if settings.max_pixels is not None and width * height > settings.max_pixels:
        share = (settings.max_pixels / (width * height)) ** 0.5
        width, height = max(1, int(width * share)), max(1, int(height * share))
    family = find_family(str(settings.config.get("model_type"))) or MediaFamily()
    return family.count_image(settings, width, height)


def count_sound(settings: MediaSettings, seconds: float) -> ImageCount | None:
    """Count the tokens of an audio clip by its seconds; None for a model without audio.

    For an unknown family it is an estimate.
    """
    if not settings.audio:
        return None
    most = settings.max_seconds
    family = find_family(str(settings.config.get("model_type"))) or MediaFamily()
    return family.count_sound(settings, seconds if most is None else min(seconds, most))


def read_media_settings(folder: Path) -> MediaSettings:
    """Read the settings of images and audio in a model's folder."""
    config, processor, images, card = (
        _read_json(folder / name)
        for name in ("config.json", "processor_config.json", "preprocessor_config.json", "model.json")
    )
    return MediaSettings(
        config, processor, processor.get("image_processor") or images, card.get("max_pixels"), card.get("max_seconds")
    )


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value


def estimate_tower_bytes(config: Mapping[str, Any], patches: float, width: int) -> int:
    """Estimate the bytes of autograd's saved tensors of a model's encoder (`width` bytes a number).

    Per patch of a layer, in numbers: the inputs of two norms and their outputs (4 hidden), queries, keys, values and
    the attention's result (4 hidden), and the MLP before and after its activation (2 intermediate).
    """
    settings = MediaSettings(config, {}, {})
    encoder_settings = settings.vision or settings.audio
    hidden = int(next((encoder_settings[name] for name in _WIDTHS if encoder_settings.get(name)), 1024))
    layers = int(next((encoder_settings[name] for name in _DEPTHS if encoder_settings.get(name)), 24))
    inner = int(encoder_settings.get("intermediate_size") or encoder_settings.get("encoder_ffn_dim") or 4 * hidden)
    return int(patches * layers * (8 * hidden + 2 * inner) * width)


_WIDTHS, _DEPTHS = (
    ("hidden_size", "embed_dim", "d_model", "hidden_dim"),
    ("num_hidden_layers", "depth", "encoder_layers"),
)
"""Names of encoders' width and number of layers."""


KEEP_BYTES = 1 << 30
"""Maximum bytes of cached features for a model."""
_USUAL_STATES = 420
"""States of a clip of ten seconds, where the encoder does not pad it to a fixed length (Moonshine)."""


class EncoderForecast(NamedTuple):
    """Computation of one clip by an audio encoder."""

    states: int
    """Number of encoder states of a clip."""
    width: int
    flops: float

    def kept_bytes(self, sounds: float, width: int) -> int:
        """Return the bytes of the stored states of `sounds` clips, `width` bytes a number."""
        return int(min(KEEP_BYTES, sounds * self.states * self.width * width))


def forecast_encoder(model: ModelDescription) -> EncoderForecast | None:
    """Predict the computation of a speech recognition model's encoder for each clip; None for other models.

    Two operations for each weight of a linear layer and state, those of the convolutions before them (the first at
    twice the rate), and 4 S² d for the attention of each layer.
    """
    if model.model_type not in SPEECH_TYPES or not model.tensors:
        return None
    shapes = {name: shape for name, shape in model.tensors.items() if find_part(name) == "audio"}
    fixed = next((shape[0] for name, shape in shapes.items() if name.endswith("embed_positions.weight")), None)
    states = fixed or _USUAL_STATES
    layers = {parse_layer_index(name) for name in shapes} - {None}
    linear = sum(math.prod(shape) for name, shape in shapes.items() if len(shape) == 2 and "embed" not in name)
    convolved = [math.prod(shape) for _, shape in sorted(shapes.items()) if len(shape) == 3]
    before = sum(2**index * size for index, size in enumerate(reversed(convolved)))
    flops = 2.0 * states * (linear + before) + 4.0 * states**2 * model.hidden_size * len(layers)
    return EncoderForecast(states, model.hidden_size, flops)
