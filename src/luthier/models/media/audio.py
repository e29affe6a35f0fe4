"""The shared part of model families that read audio."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings

if TYPE_CHECKING:
    from torch import Tensor


class AudioFeatures(NamedTuple):
    """The output of an audio encoder."""

    pooler_output: Tensor
    """(features, width) of one clip after another."""


class AudioFamily(MediaFamily):
    """Models whose `get_audio_features` returns the features of all clips in `pooler_output`."""

    def read_media(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """Return the encoder's output for clips of one shape."""
        reader = model.model.get_audio_features
        known = inspect.signature(reader).parameters
        found = reader(**{name: value for name, value in inputs.items() if name in known}, return_dict=True)
        return AudioFeatures(found.pooler_output.reshape(-1, found.pooler_output.shape[-1]))

    def reads_together(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
        """Return whether both are spectrograms of one length."""
        return {name: value.shape for name, value in first.items()} == {
            name: value.shape for name, value in second.items()
        }


def count_windows(settings: MediaSettings, seconds: float, tokens_per_second: float) -> ImageCount:
    """Count the tokens of a clip for Whisper's encoder, which reads whole windows whatever they contain."""
    window = int(settings.audio.get("max_source_positions") or 1500)
    return ImageCount(ceil(seconds * tokens_per_second), window * max(1, ceil(seconds * STATES_PER_SECOND / window)))


STATES_PER_SECOND = 50
"""States of Whisper's encoder a second."""


def build_sound_mask(tower: Any, mask: Tensor, most: int) -> Tensor:
    """Return (clips, states): which states of Whisper's encoder after averaging are audio rather than padding."""
    import torch

    _, counts = tower._get_feat_extract_output_lengths(mask.sum(-1).long())
    return torch.arange(most, device=mask.device)[None] < counts[:, None].to(mask.device)  # type: ignore[no-any-return]
