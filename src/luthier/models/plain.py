"""The plain classifier that several checks share: TF-IDF of words and pairs of words, logistic regression, held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.models.text_classifier import WORDS, C

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOLDS = 5
_TERMS = 20_000
"""Most frequent terms that are features: more change little and cost time."""


class Held(NamedTuple):
    """Out-of-fold probabilities, and how good they are."""

    chances: NDArray[np.float64]
    """(rows, classes): by a classifier that did not see the row; all rows sum to 1."""
    accuracy: float


def features(texts: Sequence[str]) -> Any:
    """(texts, terms): sparse TF-IDF; one empty column when no text has a word."""
    import numpy as np
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, WORDS), sublinear_tf=True, max_features=_TERMS, dtype=np.float64)
    try:
        return vectorizer.fit_transform(texts)
    except ValueError:  # no text has a word
        return csr_matrix((len(texts), 1), dtype=np.float64)


def classifier() -> Any:
    """The logistic regression itself, not fitted yet."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, max_iter=200, tol=1e-3)


def folds(
    codes: NDArray[np.int64], count: int, seed: int, families: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """(rows,): the fold of each row, with each class spread evenly over the folds.

    `families` holds for each row the place of the one that stands for its family: a family stays together.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    found = np.zeros(len(codes), dtype=np.int64)
    stands = np.arange(len(codes)) if families is None else families
    start = 0
    for code in np.unique(codes):
        mine = random.permutation(np.flatnonzero((codes == code) & (stands == np.arange(len(codes)))))
        found[mine] = (np.arange(len(mine)) + start) % count
        start += len(mine)
    return found[stands]


def held(
    texts: Sequence[str],
    codes: NDArray[np.int64],
    *,
    seed: int,
    count: int = FOLDS,
    families: NDArray[np.int64] | None = None,
) -> Held:
    """Probabilities of every class for each row by its words, from the other folds; see `folds` for families."""
    return held_on(features(texts), codes, seed=seed, count=count, families=families)


def held_on(
    matrix: Any,
    codes: NDArray[np.int64],
    *,
    seed: int,
    count: int = FOLDS,
    families: NDArray[np.int64] | None = None,
) -> Held:
    """The same by any features, (rows, width); classes unseen in the other folds have no probability."""
    import numpy as np

    part = folds(codes, count, seed, families)
    chances = np.zeros((len(codes), int(codes.max()) + 1))
    for fold in range(count):
        learn, ask = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        known = np.unique(codes[learn])
        if len(ask) == 0:
            continue
        if len(known) < 2:
            chances[np.ix_(ask, known)] = 1.0
            continue
        model = classifier().fit(matrix[learn], codes[learn])
        chances[np.ix_(ask, model.classes_)] = model.predict_proba(matrix[ask])
    chances = np.round(chances, 9)
    return Held(chances, float((chances.argmax(axis=1) == codes).mean()))
