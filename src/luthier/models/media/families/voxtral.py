"""Voxtral (Mistral, 2025): Whisper's encoder over windows of 30 seconds, four states concatenated, a projector of two
layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

from luthier.models.media.audio import AudioFamily
from luthier.models.media.family import FrozenAudioEncoder, ImageCount, MediaSettings

if TYPE_CHECKING:
    from torch import Tensor


class VoxtralFamily(AudioFamily):
    """The silence that pads the last window is encoded like audio."""

    types = ("voxtral",)

    def count_sound(self, settings: MediaSettings, seconds: float) -> ImageCount:
        """Count the tokens of a clip without the model or its processor."""
        windows = max(1, ceil(seconds / 30))
        return ImageCount(375 * windows, 1500 * windows)

    def find_projection(self, model: Any) -> FrozenAudioEncoder:
        """Return the encoder and the projector of a model."""
        return FrozenAudioEncoder(model.model.audio_tower, model.model.multi_modal_projector, partial(_encode, model))


def _encode(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return (states, width) with four of the encoder's states concatenated."""
    states = model.model.audio_tower(inputs["input_features"], return_dict=True).last_hidden_state
    return states.reshape(-1, model.config.audio_config.intermediate_size)  # type: ignore[no-any-return]
