"""LLaVA (Liu et al., 2023), with an encoder of CLIP, SigLIP or Pixtral."""

from __future__ import annotations

from typing import Any

from luthier.models.media.family import FrozenEncoder, ImageCount, MediaFamily, MediaSettings


class LlavaFamily(MediaFamily):
    """A projector of two layers over the states of some of an encoder's layers."""

    types = ("llava",)

    def find_projection(self, model: Any) -> FrozenEncoder:
        """Return the encoder and the projector of a model."""
        layers = model.config.vision_feature_layer
        classes = model.config.vision_feature_select_strategy == "default"
        return FrozenEncoder(
            model.model.vision_tower,
            model.model.multi_modal_projector,
            (layers,) if isinstance(layers, int) else tuple(layers),
            classes=classes,
        )

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count the tokens of an image: of fixed size, except with Pixtral's encoder."""
        if settings.vision.get("model_type") == "pixtral":
            return count_pixtral_image(settings, width, height, 1)
        classes = settings.vision.get("model_type", "clip_vision_model").startswith("clip")
        whole = classes and settings.config.get("vision_feature_select_strategy", "default") == "full"
        return ImageCount(settings.square + whole, settings.square + classes, marks=1)


def count_pixtral_image(settings: MediaSettings, width: int, height: int, merge: int) -> ImageCount:
    """Count one token for each `merge` × `merge` patches, and one at the end of each row of tokens."""
    longest = dict(settings.images.get("size") or {"longest_edge": 1024})["longest_edge"]
    side = settings.size("patch_size", 16) * merge
    if (ratio := max(height, width) / longest) > 1:
        height, width = int(height / ratio), int(width / ratio)
    rows, columns = -(-height // side), -(-width // side)
    return ImageCount(rows * columns, rows * columns * merge * merge, marks=rows)
