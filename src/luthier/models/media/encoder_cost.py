"""What the encoder of a model that transcribes will cost, from the shapes of its weights; known without torch."""

from __future__ import annotations

import math
from typing import NamedTuple

from luthier.chat.speech import SPEECH_TYPES
from luthier.models.describe import ModelDescription
from luthier.models.shapes import find_part, parse_layer_index

KEEP_BYTES = 1 << 30
"""Features that are kept of one model."""
_USUAL_STATES = 420
"""States of a sound of ten seconds, where the encoder does not fill it up to a fixed length (Moonshine)."""


class EncoderForecast(NamedTuple):
    """One reading of one sound."""

    states: int
    """How many states the encoder makes of a sound."""
    width: int
    flops: float

    def kept_bytes(self, sounds: float, width: int) -> int:
        """Bytes of the states that are kept of so many sounds, `width` bytes a number."""
        return int(min(KEEP_BYTES, sounds * self.states * self.width * width))


def forecast_encoder(model: ModelDescription) -> EncoderForecast | None:
    """What a model's encoder computes for each sound; None for a model that does not transcribe.

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
