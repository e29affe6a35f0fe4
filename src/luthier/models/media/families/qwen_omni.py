"""The thinkers of Qwen2.5-Omni and Qwen3-Omni, which see and hear; they write text alone here."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

from luthier.models.media.families.qwen_vl import QwenVisionFamily
from luthier.models.media.family import ImageCount, MediaSettings

if TYPE_CHECKING:
    from torch import Tensor


class QwenOmniFamily(QwenVisionFamily):
    """Pictures as in Qwen-VL; a sound's tokens have positions like text."""

    types = ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")

    def read_media(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """What a plain model's tower says of pictures, or of sounds."""
        if "input_features" not in inputs:
            return super().read_media(model, inputs)
        from luthier.models.media.audio import AudioFeatures

        found = model.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"], return_dict=True)
        return AudioFeatures(found.last_hidden_state)

    def count_sound(self, settings: MediaSettings, seconds: float) -> ImageCount:
        """What a sound of so many seconds comes to, told without the model or its processor."""
        if settings.config.get("model_type") != "qwen3_omni_moe_thinker":
            return super().count_sound(settings, seconds)
        count = ceil(13 * seconds)  # for each second of 100 frames
        return ImageCount(count, count)

    def reads_together(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
        """Pictures always; a sound by itself."""
        return "image_grid_thw" in one and "image_grid_thw" in other
