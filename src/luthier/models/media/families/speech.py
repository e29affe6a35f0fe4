"""Whisper and Moonshine: the decoder attends to the encoder's states of a sound, which `encoder_decoder` reads."""

from __future__ import annotations

from typing import ClassVar

from luthier.models.media.family import MediaFamily


class Speech(MediaFamily):
    """One sound a row, whose key the first token bears; packed, each row attends to its own."""

    types: ClassVar[tuple[str, ...]] = ("whisper", "moonshine")
