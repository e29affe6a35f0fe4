"""Granite Speech (IBM, 2025): a Conformer encoder, and a Q-Former that makes three features of fifteen states."""

from __future__ import annotations

from luthier.models.media.audio import AudioFamily


class GraniteSpeechFamily(AudioFamily):
    """Each sound is read by itself: the processor would lengthen it to its neighbours."""

    types = ("granite_speech",)
