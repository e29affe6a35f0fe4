"""A space of latent semantic analysis: the weights of terms, and the directions in which texts differ most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.files import write_aside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.models.embedder import Points

KEPT = 0.2
"""A text of whose length (1 before the SVD) less is kept points nowhere."""
_TERMS, _NUMBERS = "terms.json", "numbers.safetensors"


class Terms(NamedTuple):
    """A kind of terms, as scikit-learn says it."""

    analyzer: str
    lengths: tuple[int, int]
    most: int
    """How many terms count: the most frequent ones."""

    def vectorizer(self, known: Sequence[str] | None = None) -> Any:
        """What weighs such terms of texts: those that are known, or those that it will learn."""
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(
            analyzer=self.analyzer,
            ngram_range=self.lengths,
            sublinear_tf=True,
            max_features=self.most,
            dtype=np.float64,
            vocabulary=known,
        )


class Latent:
    """Weighed terms of texts, turned into the directions that were learnt; of few texts, the terms themselves."""

    def __init__(self, vectorizers: Sequence[Any], directions: NDArray[np.float64] | None) -> None:
        self._vectorizers = vectorizers
        self._directions = directions  # (width, terms)
        terms = sum(len(one.vocabulary_) for one in vectorizers)
        self.width = max(1, terms) if directions is None else len(directions)

    @classmethod
    def learnt(cls, texts: Sequence[str], kinds: Sequence[Terms], dimensions: int, seed: int) -> Latent:
        """Weights of the terms of these texts, and so many directions at most."""
        import numpy as np
        from sklearn.decomposition import TruncatedSVD

        own = cls([one for kind in kinds if _is_fit(one := kind.vectorizer(), texts)], None)
        wanted = min(dimensions, own.width - 1)
        if wanted < 2:
            return own
        with np.errstate(invalid="ignore", divide="ignore"):  # equal texts have no variance to be explained
            svd = TruncatedSVD(wanted, random_state=seed % 2**32).fit(own._features(texts))
        return cls(own._vectorizers, np.ascontiguousarray(svd.components_))

    def points(self, texts: Sequence[str]) -> Points:
        """Each text by the terms that are known here."""
        import numpy as np

        if not texts or not self._vectorizers:
            return np.zeros((len(texts), self.width), dtype=np.float32)
        matrix = self._features(texts)
        found: NDArray[np.float64] = matrix.toarray() if self._directions is None else matrix @ self._directions.T
        length = np.linalg.norm(found, axis=1, keepdims=True)
        unit = np.divide(found, length, out=np.zeros_like(found), where=length >= KEPT)
        points: Points = unit.astype(np.float32)
        return points

    def _features(self, texts: Sequence[str]) -> Any:
        """(texts, terms): words and pieces weigh the same; rows at unit length."""
        from scipy.sparse import hstack
        from sklearn.preprocessing import normalize

        return normalize(hstack([one.transform(texts) for one in self._vectorizers], format="csr"))

    def save(self, folder: Path) -> None:
        """Write terms, weights and directions."""
        from safetensors.numpy import save

        numbers = {one.analyzer: one.idf_ for one in self._vectorizers}
        if self._directions is not None:
            numbers["directions"] = self._directions
        terms = {one.analyzer: one.get_feature_names_out().tolist() for one in self._vectorizers}
        write_aside(folder / _TERMS, json.dumps(terms).encode("ascii"))
        write_aside(folder / _NUMBERS, save(numbers))

    @classmethod
    def load(cls, folder: Path, kinds: Sequence[Terms]) -> Latent:
        """Read what `save` wrote."""
        from safetensors.numpy import load

        terms = json.loads((folder / _TERMS).read_bytes())
        numbers = load((folder / _NUMBERS).read_bytes())
        vectorizers = []
        for kind in kinds:
            if kind.analyzer in terms:
                vectorizer = kind.vectorizer(terms[kind.analyzer])
                vectorizer.idf_ = numbers[kind.analyzer]
                vectorizers.append(vectorizer)
        return cls(vectorizers, numbers.get("directions"))


def _is_fit(vectorizer: Any, texts: Sequence[str]) -> bool:
    """Learn the terms; False when no text has any."""
    try:
        vectorizer.fit(texts)
    except ValueError:  # an empty vocabulary
        return False
    return True
