"""Whisper and Moonshine: the decoder attends to the encoder's states of a clip, which `encoder_decoder` reads."""

from __future__ import annotations

from typing import ClassVar

from luthier.models.media.family import MediaFamily


class Speech(MediaFamily):
    """One clip a row, whose key is in the first token; in a pack, each row attends to its own."""

    types: ClassVar[tuple[str, ...]] = ("whisper", "moonshine")
