"""Texts as points: latent semantic analysis (TF-IDF, then a truncated SVD), which needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

DIMENSIONS = 128
"""At most; a dimension stands for at least so many texts, so that none stands for a single odd one."""
TEXTS_A_DIMENSION = 8
KEPT = 0.2
"""A text of whose length (1 before the SVD) less is kept points nowhere."""


def points(texts: Sequence[str], *, seed: int) -> Points:
    """(texts, dimensions): unit vectors; zero where hardly anything of a text is kept, as where no other text
    has its words (Deerwester et al. 1990). The order in which texts come changes no bit."""
    import numpy as np

    order = sorted(range(len(texts)), key=texts.__getitem__)
    found = _points([texts[at] for at in order], seed)
    place = np.empty(len(texts), dtype=np.int64)
    place[order] = np.arange(len(texts))
    return found[place]


def _points(texts: Sequence[str], seed: int) -> Points:
    import numpy as np
    from sklearn.decomposition import TruncatedSVD

    from luthier.data.checking.plain import features

    matrix = features(texts)
    wanted = min(DIMENSIONS, len(texts) // TEXTS_A_DIMENSION, matrix.shape[1] - 1)
    if wanted < 2:
        return np.asarray(matrix.toarray(), dtype=np.float64)
    found = TruncatedSVD(wanted, random_state=seed % 2**32).fit_transform(matrix)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    unit: Points = np.divide(found, length, out=np.zeros_like(found), where=length >= KEPT)
    return unit
