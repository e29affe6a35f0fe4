"""Idefics3 and SmolVLM: a picture is parted into tiles, each with its place written before it."""

from __future__ import annotations

from luthier.models.media.family import MediaFamily


class IdeficsFamily(MediaFamily):
    """Each picture is read alone: its tiles are a batch of their own."""

    types = ("idefics3", "smolvlm")
