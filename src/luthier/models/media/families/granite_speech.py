"""Granite Speech (IBM, 2025): a Conformer encoder, and a Q-Former that makes three features of fifteen states."""

from __future__ import annotations

from math import ceil

from luthier.models.media.audio import STATES_PER_SECOND, AudioFamily
from luthier.models.media.family import ImageCount, MediaSettings


class GraniteSpeechFamily(AudioFamily):
    """Each sound is read by itself: the processor would lengthen it to its neighbours."""

    types = ("granite_speech",)

    def count_sound(self, settings: MediaSettings, seconds: float) -> ImageCount:
        """What a sound of so many seconds comes to, told without the model or its processor."""
        states = ceil(seconds * STATES_PER_SECOND)
        return ImageCount(3 * ceil(states / 15), states)
