"""Granite Speech (IBM, 2025): a Conformer encoder, and a Q-Former that makes three features of fifteen states."""

from __future__ import annotations

from math import ceil

from luthier.models.media.audio import STATES_PER_SECOND, AudioFamily
from luthier.models.media.family import ImageCount, MediaSettings


class GraniteSpeechFamily(AudioFamily):
    """Each clip is read alone: the processor would pad it to the length of others."""

    types = ("granite_speech",)

    def count_sound(self, settings: MediaSettings, seconds: float) -> ImageCount:
        """Count the tokens of a clip without the model or its processor."""
        states = ceil(seconds * STATES_PER_SECOND)
        return ImageCount(3 * ceil(states / 15), states)
