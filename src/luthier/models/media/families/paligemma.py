"""PaliGemma, whose prompt has bidirectional attention (prefix-LM)."""

from __future__ import annotations

from luthier.models.media.family import MediaFamily


class PaliGemmaFamily(MediaFamily):
    """Images first, then the question; only the answer is causal."""

    types = ("paligemma",)
    alone = "a prompt's tokens see one another, so that rows share a prompt only as a whole"
    prefix = True
