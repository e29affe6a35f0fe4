"""Audio Flamingo 3 (NVIDIA, 2025): Whisper's encoder over windows of 30 seconds, states averaged by two, a projector of
two layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from luthier.models.media.audio import AudioFamily, build_sound_mask, count_windows
from luthier.models.media.family import FrozenAudioEncoder, ImageCount, MediaSettings

if TYPE_CHECKING:
    from torch import Tensor


class AudioFlamingoFamily(AudioFamily):
    """Padding is masked, and its states are left out."""

    types = ("audioflamingo3",)

    def count_sound(self, settings: MediaSettings, seconds: float) -> ImageCount:
        """Count the tokens of a clip without the model or its processor."""
        return count_windows(settings, seconds, 25)

    def find_projection(self, model: Any) -> FrozenAudioEncoder:
        """Return the encoder and the projector of a model."""
        return FrozenAudioEncoder(model.model.audio_tower, model.model.multi_modal_projector, partial(_encode, model))


def _encode(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return (states, width) of the encoder that are audio."""
    tower, mask = model.model.audio_tower, inputs["input_features_mask"]
    states = tower(inputs["input_features"], input_features_mask=mask, return_dict=True).last_hidden_state
    return states[build_sound_mask(tower, mask, states.shape[1])]  # type: ignore[no-any-return]
