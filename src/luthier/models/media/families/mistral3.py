"""Mistral 3: Pixtral's encoder, whose patches are merged before the projector."""

from __future__ import annotations

from luthier.models.media.families.llava import count_pixtral_image
from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings


class Mistral3Family(MediaFamily):
    """Images of any size; a token ends each row of patches."""

    types = ("mistral3",)

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count one token for each group of merged patches."""
        return count_pixtral_image(settings, width, height, int(settings.config.get("spatial_merge_size", 2)))
