"""Embeddings without a model: latent semantic analysis of words and character n-grams."""

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
    """Maximum dimensions of an embedding."""
    pieces: bool = True
    """Whether character n-grams count besides words, so that inflected and misspelled forms are close."""
    texts_a_dimension: int = Field(default=1, ge=1)
    """Minimum number of texts for each dimension. With 1, few texts keep everything that distinguishes them, as
    deduplication needs it; with 8, rare terms are dropped and an unusual text has almost no direction, as outlier
    detection needs it."""

    def space(self, texts: Iterable[str], *, recipe_dir: Path, seed: int) -> EmbeddingSpace:
        """Fit to texts; of more than 20,000, to those with the lowest digests, which is a sample by content."""
        import xxhash

        def lot(text: str) -> tuple[int, str]:
            return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace")), text

        chosen = sorted(nsmallest(self.learns_from or 1, texts, lot))
        return LatentSemanticProjection.fit(
            chosen, self._terms(), min(self.dimensions, len(chosen) // self.texts_a_dimension), seed
        )

    def keep(self, space: EmbeddingSpace, folder: Path) -> None:
        """Write terms, their weights, and directions: words of the texts are stored in plain text."""
        if not isinstance(space, LatentSemanticProjection):
            raise TypeError(f"expected a space of `lsa`, got {type(space).__name__}")
        space.save(folder)

    def kept(self, folder: Path, *, recipe_dir: Path) -> EmbeddingSpace:
        """Read what `keep` wrote."""
        return LatentSemanticProjection.load(folder, self._terms())

    def _terms(self) -> tuple[TermVectorizerConfig, ...]:
        return (WORDS, PIECES) if self.pieces else (WORDS,)
