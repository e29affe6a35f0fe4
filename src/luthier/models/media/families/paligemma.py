"""PaliGemma, whose prompt sees itself both ways (prefix-LM)."""

from __future__ import annotations

from luthier.models.media.family import MediaFamily


class PaliGemmaFamily(MediaFamily):
    """Pictures first, then the question; only the answer is read from left to right."""

    types = ("paligemma",)
    alone = "a prompt's tokens see one another, so that rows share a prompt only as a whole"
    prefix = True
