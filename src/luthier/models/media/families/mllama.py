"""Mllama (Llama 3.2 Vision), whose decoder attends to pictures by layers of their own."""

from __future__ import annotations

from luthier.models.media.family import MediaFamily


class MllamaFamily(MediaFamily):
    """A row's tokens see the pictures of that row: one token stands for each, and none of its features."""

    types = ("mllama",)
    alone = "its layers of cross-attention let the text before a picture depend on that picture"
