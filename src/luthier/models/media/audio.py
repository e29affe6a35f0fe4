"""How models read sounds: what is the same in the families whose decoder hears."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings

if TYPE_CHECKING:
    from torch import Tensor


class AudioFeatures(NamedTuple):
    """What a tower says of sounds."""

    pooler_output: Tensor
    """(features, width) of one sound after another."""


class AudioFamily(MediaFamily):
    """Sounds of models whose `get_audio_features` tells in `pooler_output` the features of all of them."""

    def read_media(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """What a plain model's tower says of sounds of one shape."""
        reader = model.model.get_audio_features
        known = inspect.signature(reader).parameters
        found = reader(**{name: value for name, value in inputs.items() if name in known}, return_dict=True)
        return AudioFeatures(found.pooler_output.reshape(-1, found.pooler_output.shape[-1]))

    def reads_together(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
        """Where both are spectrograms of one length."""
        return {name: value.shape for name, value in one.items()} == {
            name: value.shape for name, value in other.items()
        }


def count_windows(settings: MediaSettings, seconds: float, tokens_per_second: float) -> ImageCount:
    """What a sound comes to for Whisper's encoder, which reads whole windows whatever is in them."""
    window = int(settings.audio.get("max_source_positions") or 1500)
    return ImageCount(ceil(seconds * tokens_per_second), window * max(1, ceil(seconds * STATES_PER_SECOND / window)))


STATES_PER_SECOND = 50
"""States of Whisper's encoder."""


def build_sound_mask(tower: Any, mask: Tensor, most: int) -> Tensor:
    """(sounds, states) which states of Whisper's encoder and the averaging after it are of sound, not of padding."""
    import torch

    _, counts = tower._get_feat_extract_output_lengths(mask.sum(-1).long())
    return torch.arange(most, device=mask.device)[None] < counts[:, None].to(mask.device)  # type: ignore[no-any-return]
