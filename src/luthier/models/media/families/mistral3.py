"""Mistral 3: Pixtral's encoder, whose patches are merged before the projector."""

from __future__ import annotations

from luthier.models.media.family import MediaFamily


class Mistral3Family(MediaFamily):
    """Pictures of any size; a token ends each line of patches."""

    types = ("mistral3",)
