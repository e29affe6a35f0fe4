"""The thinkers of Qwen2.5-Omni and Qwen3-Omni, which read images and audio; they generate text only here."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

from luthier.models.media.families.qwen_vl import QwenVisionFamily
from luthier.models.media.family import ImageCount, MediaSettings

if TYPE_CHECKING:
    from torch import Tensor


class QwenOmniFamily(QwenVisionFamily):
    """Images as in Qwen-VL; audio tokens have text positions."""

    types = ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")

    def read_media(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """Return the encoder's output for images or audio."""
        if "input_features" not in inputs:
            return super().read_media(model, inputs)
        from luthier.models.media.audio import AudioFeatures

        features = model.get_audio_features(
            inputs["input_features"], inputs["feature_attention_mask"], return_dict=True
        )
        return AudioFeatures(features.last_hidden_state)

    def count_sound(self, settings: MediaSettings, seconds: float) -> ImageCount:
        """Count the tokens of a clip without the model or its processor."""
        if settings.config.get("model_type") != "qwen3_omni_moe_thinker":
            return super().count_sound(settings, seconds)
        count = ceil(13 * seconds)  # for each second of 100 frames
        return ImageCount(count, count)

    def reads_together(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
        """Return True for images; a clip is read alone."""
        return "image_grid_thw" in first and "image_grid_thw" in second
