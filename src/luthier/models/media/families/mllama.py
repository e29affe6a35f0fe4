"""Mllama (Llama 3.2 Vision), whose decoder attends to images by cross-attention layers."""

from __future__ import annotations

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings


class MllamaFamily(MediaFamily):
    """A row's tokens attend to the images of that row: one token stands for each, without features in the sequence."""

    types = ("mllama",)
    alone = "its layers of cross-attention let the text before a picture depend on that picture"

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count one token; the encoder always reads the maximum number of tiles, empty ones included."""
        return ImageCount(1, int(settings.vision.get("max_num_tiles", 4)) * (settings.square + 1), marks=0)
