"""LLaVA-NeXT and LLaVA-OneVision: tiles of a picture at the resolution that fits it best, with a feature at each line's
end."""

from __future__ import annotations

from luthier.models.media.family import MediaFamily


class LlavaNextFamily(MediaFamily):
    """Each picture is read alone: the number of its tiles is its own.

    LLaVA-OneVision parts a picture into tiles only where it stands alone in its row, which the processor notes.
    """

    types = ("llava_next", "llava_onevision")
