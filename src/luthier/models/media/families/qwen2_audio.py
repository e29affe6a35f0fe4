"""Qwen2-Audio (Chu et al., 2024): Whisper's encoder, every two states averaged, and one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from luthier.models.media.audio import AudioFamily, AudioFeatures, build_sound_mask, count_windows
from luthier.models.media.family import FrozenAudioEncoder, ImageCount, MediaSettings

if TYPE_CHECKING:
    from torch import Tensor


class Qwen2AudioFamily(AudioFamily):
    """Its model has no separate function for audio: this repeats what `Qwen2AudioModel.forward` does."""

    types = ("qwen2_audio",)

    def read_media(self, model: Any, inputs: Mapping[str, Any]) -> AudioFeatures:
        """Return the projector's features of audio, without padding."""
        return AudioFeatures(model.model.multi_modal_projector(_encode(model, inputs)))

    def count_sound(self, settings: MediaSettings, seconds: float) -> ImageCount:
        """Count the tokens of a clip without the model or its processor."""
        return count_windows(settings, seconds, 25)

    def find_projection(self, model: Any) -> FrozenAudioEncoder:
        """Return the encoder and the projector of a model."""
        return FrozenAudioEncoder(model.model.audio_tower, model.model.multi_modal_projector, partial(_encode, model))


def _encode(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return (states, width) of the encoder that are audio."""
    import torch
    from transformers.masking_utils import create_bidirectional_mask

    tower, mask, values = model.model.audio_tower, inputs["feature_attention_mask"], inputs["input_features"]
    frames, _ = tower._get_feat_extract_output_lengths(mask.sum(-1))
    most = (values.shape[-1] - 2) // 2 + 1
    visible = (torch.arange(most, device=values.device)[None] < frames[:, None]).long()
    blank = values.new_zeros(len(values), most, 1)
    attention = create_bidirectional_mask(config=tower.config, inputs_embeds=blank, attention_mask=visible)
    states = tower(values, attention_mask=attention).last_hidden_state
    return states[build_sound_mask(tower, mask, states.shape[1])]  # type: ignore[no-any-return]
