"""InternVL: tiles of one size, and the picture as a whole after them."""

from __future__ import annotations

from luthier.models.media.family import MediaFamily


class InternVLFamily(MediaFamily):
    """Tiles of all pictures are a batch; each has as many features."""

    types = ("internvl",)
