"""Gemma 3, in which the tokens of an image attend to one another."""

from __future__ import annotations

from typing import Any

from luthier.models.media.family import FrozenEncoder, ImageCount, MediaFamily, MediaSettings


class Gemma3Family(MediaFamily):
    """256 tokens for every picture, pooled from those of SigLIP."""

    types = ("gemma3",)
    mutual = True

    def find_projection(self, model: Any) -> FrozenEncoder:
        """Return the encoder and the projector of a model."""
        return FrozenEncoder(model.model.vision_tower, model.model.multi_modal_projector, (), classes=False)

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count the tokens and patches of an image: the same for every image."""
        return ImageCount(int(settings.config.get("mm_tokens_per_image", 256)), settings.square, marks=4)
