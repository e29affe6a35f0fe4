"""Embedders: the role `embedder`, latent semantic analysis, and embedding spaces in a folder.

Deduplication, outliers, shift, selection, relevance and drift share the role. An embedder holds settings and opens a
*space*, which holds weights or what was learned from texts and returns the vector of any text. A vector depends bit for
bit on its text and the space alone, not on the other texts of the call or their order. A space from `load_space`
returns the vectors that it returned before `save_space`.

The folder holds `space.json` (the embedder, its weights, and the digest of each file beside it) and the files of what
was learned from texts. The terms of an `lsa` are words of the texts, so protect the folder as you protect the texts.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from luthier.core.component import Component
from luthier.core.errors import CorruptArtifact, ModelError, SourceLocation
from luthier.core.files import (
    dump_json_with_checksum,
    load_json_with_checksum,
    translate_write_errors,
    write_atomically,
)
from luthier.core.hashing import file_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Points = NDArray[np.float32]
    """(texts, width): unit vectors, or zero for a text of which nothing is known."""


class EmbeddingSpace(Protocol):
    """Maps texts to vectors."""

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        ...

    def points(self, texts: Sequence[str]) -> Points:
        """Return a vector for each text: of unit length, or zero where no part of the text is known."""
        ...


class Embedder(Component):
    """The base class of embedders, which map texts to vectors."""

    role: ClassVar[str] = "embedder"
    home: ClassVar[str] = "luthier.models.embedders"
    learns_from: ClassVar[int | None] = None
    """Maximum number of texts that it is fitted to; None: none, and equal texts have equal vectors in every space."""

    @abstractmethod
    def space(self, texts: Iterable[str], *, recipe_dir: Path, seed: int) -> EmbeddingSpace:
        """Open the space, fitted to these texts in any order where it is fitted at all.

        They are read once, and at most `learns_from` of them are kept. Relative paths start at `recipe_dir`, the
        recipe's folder.
        """

    def points(self, texts: Sequence[str], *, recipe_dir: Path, seed: int) -> Points:
        """Return the vectors of texts in the space fitted to them."""
        return self.space(texts, recipe_dir=recipe_dir, seed=seed).points(texts)

    def keep(self, space: EmbeddingSpace, folder: Path) -> None:
        """Write what a space was fitted with into a folder; nothing where nothing is fitted."""
        return

    def kept(self, folder: Path, *, recipe_dir: Path) -> EmbeddingSpace:
        """Open the space that `keep` wrote into this folder."""
        return self.space((), recipe_dir=recipe_dir, seed=0)


def paired_cosine_similarity(first: Points, second: Points) -> NDArray[np.float64]:
    """(pairs,): the cosine similarity of each pair of vectors, independent of order and batch."""
    import numpy as np

    products = first.astype(np.float64) * second.astype(np.float64)
    cosines: NDArray[np.float64] = np.clip(products.sum(axis=1), -1.0, 1.0)
    return cosines


KEPT = 0.2
"""A text that keeps less of its length than this (1 before the SVD) gets a zero vector."""
_TERMS, _NUMBERS = "terms.json", "numbers.safetensors"


class TermVectorizerConfig(NamedTuple):
    """A kind of terms, in scikit-learn's parameters."""

    analyzer: str
    lengths: tuple[int, int]
    most: int
    """Number of most frequent terms that count."""

    def vectorizer(self, known: Sequence[str] | None = None) -> Any:
        """Return a vectorizer of such terms: the known ones, or those that it will be fitted to."""
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


class LatentSemanticProjection:
    """Weighted terms of texts, projected to the fitted directions; of few texts, the terms themselves."""

    def __init__(self, vectorizers: Sequence[Any], directions: NDArray[np.float64] | None) -> None:
        self._vectorizers = vectorizers
        self._directions = directions  # (width, terms)
        terms = sum(len(vectorizer.vocabulary_) for vectorizer in vectorizers)
        self.width = max(1, terms) if directions is None else len(directions)

    @classmethod
    def fit(
        cls, texts: Sequence[str], kinds: Sequence[TermVectorizerConfig], dimensions: int, seed: int
    ) -> LatentSemanticProjection:
        """Fit term weights to these texts, and at most `dimensions` directions."""
        import numpy as np
        from sklearn.decomposition import TruncatedSVD

        own = cls([one for kind in kinds if _is_fit(one := kind.vectorizer(), texts)], None)
        n_components = min(dimensions, own.width - 1)
        if n_components < 2:
            return own
        with np.errstate(invalid="ignore", divide="ignore"):  # equal texts have no variance to be explained
            svd = TruncatedSVD(n_components, random_state=seed % 2**32).fit(own._features(texts))
        return cls(own._vectorizers, np.ascontiguousarray(svd.components_))

    def points(self, texts: Sequence[str]) -> Points:
        """Return the vector of each text by the known terms."""
        import numpy as np

        if not texts or not self._vectorizers:
            return np.zeros((len(texts), self.width), dtype=np.float32)
        matrix = self._features(texts)
        projected: NDArray[np.float64] = matrix.toarray() if self._directions is None else matrix @ self._directions.T
        length = np.linalg.norm(projected, axis=1, keepdims=True)
        unit = np.divide(projected, length, out=np.zeros_like(projected), where=length >= KEPT)
        points: Points = unit.astype(np.float32)
        return points

    def _features(self, texts: Sequence[str]) -> Any:
        """Return (texts, terms): words and n-grams have equal weight; rows of unit length."""
        from scipy.sparse import hstack
        from sklearn.preprocessing import normalize

        return normalize(hstack([vectorizer.transform(texts) for vectorizer in self._vectorizers], format="csr"))

    def save(self, folder: Path) -> None:
        """Write terms, weights and directions."""
        from safetensors.numpy import save

        numbers = {vectorizer.analyzer: vectorizer.idf_ for vectorizer in self._vectorizers}
        if self._directions is not None:
            numbers["directions"] = self._directions
        terms = {vectorizer.analyzer: vectorizer.get_feature_names_out().tolist() for vectorizer in self._vectorizers}
        write_atomically(folder / _TERMS, json.dumps(terms).encode("ascii"))
        write_atomically(folder / _NUMBERS, save(numbers))

    @classmethod
    def load(cls, folder: Path, kinds: Sequence[TermVectorizerConfig]) -> LatentSemanticProjection:
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
    """Fit the terms; False when no text has any."""
    try:
        vectorizer.fit(texts)
    except ValueError:  # an empty vocabulary
        return False
    return True


SPACE = "space.json"
_ANEW = "learn the space anew and save it again"


class StoredEmbeddingSpace(NamedTuple):
    """A stored space that was opened, and its embedder."""

    embedder: Embedder
    space: EmbeddingSpace


def save_space(embedder: Embedder, space: EmbeddingSpace, folder: Path, *, recipe_dir: Path) -> None:
    """Write a space of this embedder to a folder of its own; `space.json` is written last."""
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPACE).unlink(missing_ok=True)
        embedder.keep(space, folder)
        files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    record = {"embedder": embedder.settings(), "fingerprint": embedder.fingerprint(recipe_dir), "files": files}
    write_atomically(folder / SPACE, dump_json_with_checksum({"format": 1, **record}))


def load_space(folder: Path, *, recipe_dir: Path) -> StoredEmbeddingSpace:
    """Open a stored space: its vectors equal those before, bit by bit on the same machine.

    `CorruptArtifact` when a file is missing or changed, `ModelError` when external weights have changed. Relative paths
    of weights start at `recipe_dir`.
    """
    path = folder / SPACE
    try:
        record = load_json_with_checksum(path.read_bytes(), path)
    except OSError as error:
        what = f"no space was kept here: {error.strerror}"
        raise CorruptArtifact(what, where=SourceLocation(file=str(path)), hint=_ANEW) from error
    if record.get("format") != 1:
        what = f"is a space of format {record.get('format')}, which this version of Luthier does not read"
        raise CorruptArtifact(what, where=SourceLocation(file=str(path)), hint=_ANEW)
    for name, digest in record["files"].items():
        _check(folder / name, digest)
    embedder = Embedder.parse(record["embedder"])
    if embedder.fingerprint(recipe_dir) != record["fingerprint"]:
        what = f"the weights of the embedder `{embedder.kind}` are others than those that this space was kept with"
        raise ModelError(what, where=SourceLocation(file=str(path)), hint=f"bring the old weights back, or {_ANEW}")
    return StoredEmbeddingSpace(embedder, embedder.kept(folder, recipe_dir=recipe_dir))


def _check(path: Path, digest: str) -> None:
    what = "is missing" if not path.is_file() else "differs from what was kept" if file_digest(path) != digest else ""
    if what:
        raise CorruptArtifact(what, where=SourceLocation(file=str(path)), hint=_ANEW)
