"""Texts as points without any model: latent semantic analysis of words and pieces of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.models.embedder import Embedder, Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.models.embedder import Points

WORDS, PIECES = ("word", (1, 2), 20_000), ("char_wb", (3, 5), 50_000)
"""scikit-learn's name of what terms are made of, how many of it make one, and how many of the most frequent count."""
Terms = tuple[str, tuple[int, int], int]
KEPT = 0.2
"""A text of whose length (1 before the SVD) less is kept points nowhere."""


class Lsa(Embedder):
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

    def space(self, texts: Iterable[str], *, base: Path, seed: int) -> Space:
        """Learn from texts; of more than 20,000, from those whose digests are lowest, which is a draw by content."""
        import xxhash

        def lot(text: str) -> tuple[int, str]:
            return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace")), text

        chosen = sorted(nsmallest(self.learns_from or 1, texts, lot))
        terms = (WORDS, PIECES) if self.pieces else (WORDS,)
        return _Learnt(chosen, terms, min(self.dimensions, len(chosen) // self.texts_a_dimension), seed)


class _Learnt:
    """Weights of terms, and the directions in which texts differ most."""

    def __init__(self, texts: Sequence[str], kinds: Sequence[Terms], dimensions: int, seed: int) -> None:
        import numpy as np
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizers: list[Any] = []
        for analyzer, lengths, count in kinds:
            vectorizer = TfidfVectorizer(
                analyzer=analyzer, ngram_range=lengths, sublinear_tf=True, max_features=count, dtype=np.float64
            )
            if _is_fit(vectorizer, texts):
                self._vectorizers.append(vectorizer)
        terms = sum(len(one.vocabulary_) for one in self._vectorizers)
        wanted = min(dimensions, terms - 1)
        self._svd: Any = None
        if wanted >= 2:
            with np.errstate(invalid="ignore"):  # equal texts have no variance to be explained
                self._svd = TruncatedSVD(wanted, random_state=seed % 2**32).fit(self._features(texts))
        self.width = wanted if wanted >= 2 else max(1, terms)

    def points(self, texts: Sequence[str]) -> Points:
        """Each text by the terms that are known here; of few texts, the terms themselves."""
        import numpy as np

        if not texts or not self._vectorizers:
            return np.zeros((len(texts), self.width), dtype=np.float32)
        matrix = self._features(texts)
        found: NDArray[np.float64] = matrix.toarray() if self._svd is None else self._svd.transform(matrix)
        length = np.linalg.norm(found, axis=1, keepdims=True)
        unit = np.divide(found, length, out=np.zeros_like(found), where=length >= KEPT)
        points: Points = unit.astype(np.float32)
        return points

    def _features(self, texts: Sequence[str]) -> Any:
        """(texts, terms): words and pieces weigh the same; rows at unit length."""
        from scipy.sparse import hstack
        from sklearn.preprocessing import normalize

        return normalize(hstack([one.transform(texts) for one in self._vectorizers], format="csr"))


def _is_fit(vectorizer: Any, texts: Sequence[str]) -> bool:
    """Learn the terms; False when no text has any."""
    try:
        vectorizer.fit(texts)
    except ValueError:  # an empty vocabulary
        return False
    return True
