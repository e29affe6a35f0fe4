"""Mllama (Llama 3.2 Vision), whose decoder attends to pictures by layers of their own."""

from __future__ import annotations

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings


class MllamaFamily(MediaFamily):
    """A row's tokens see the pictures of that row: one token stands for each, and none of its features."""

    types = ("mllama",)
    alone = "its layers of cross-attention let the text before a picture depend on that picture"

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """One token; the encoder reads as many tiles as there are at most, empty ones too."""
        return ImageCount(1, int(settings.vision.get("max_num_tiles", 4)) * (settings.square + 1), marks=0)
