"""Texts as points without any model: latent semantic analysis of words and pieces of words."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from luthier.models.embeddings.base import Embedder, EmbeddingSpace, LatentSemanticProjection, TermVectorizerConfig

WORDS, PIECES = TermVectorizerConfig("word", (1, 2), 20_000), TermVectorizerConfig("char_wb", (3, 5), 50_000)


class LsaEmbedder(Embedder):
    """TF-IDF of words, pairs of words and pieces of words, then a truncated SVD (Deerwester et al. 1990); no weights.

    Alike are texts with the same words, in other forms, spelling and order, and words that go together in these texts;
    that other words mean the same is seen by an `encoder` alone. The space is learnt from the texts at hand.
    """

    kind: Literal["lsa"] = "lsa"
    learns_from: ClassVar[int | None] = 20_000

    dimensions: int = Field(default=256, ge=2, le=4096)
    """How many numbers a point has at most."""
    pieces: bool = True
    """Whether pieces of words count beside words, so that other forms and spellings are near; without them, a text
    whose words stand nowhere else is farther from all others."""
    texts_a_dimension: int = Field(default=1, ge=1)
    """How many texts there are to a number at least. With 1, few texts keep all that tells them apart, as duplicates
    want it; with 8, what only an odd text has is left out and the text lies nowhere, as outliers want it."""

    def space(self, texts: Iterable[str], *, recipe_dir: Path, seed: int) -> EmbeddingSpace:
        """Learn from texts; of more than 20,000, from those whose digests are lowest, which is a draw by content."""
        import xxhash

        def lot(text: str) -> tuple[int, str]:
            return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace")), text

        chosen = sorted(nsmallest(self.learns_from or 1, texts, lot))
        return LatentSemanticProjection.fit(
            chosen, self._terms(), min(self.dimensions, len(chosen) // self.texts_a_dimension), seed
        )

    def keep(self, space: EmbeddingSpace, folder: Path) -> None:
        """Write terms, their weights, and directions: words of the texts stand there in clear."""
        if not isinstance(space, LatentSemanticProjection):
            raise TypeError(f"expected a space of `lsa`, got {type(space).__name__}")
        space.save(folder)

    def kept(self, folder: Path, *, recipe_dir: Path) -> EmbeddingSpace:
        """Read what was learnt."""
        return LatentSemanticProjection.load(folder, self._terms())

    def _terms(self) -> tuple[TermVectorizerConfig, ...]:
        return (WORDS, PIECES) if self.pieces else (WORDS,)
