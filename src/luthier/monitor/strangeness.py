"""Numbers by which texts of another kind stand out: how far they are from all known ones, where they lie, their words.

All are learnt from one part of the reference alone, so that to them the rest of the reference and a stream which is
drawn as it was are alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from luthier.models.embedder import Points, Space

DIRECTIONS = 4
"""Along so many directions, in which the reference differs most, texts are placed."""
NAMES = ("distance", *(f"direction {number}" for number in range(1, DIRECTIONS + 1)), "length", "unknown words")
_WORD = re.compile(r"\w+")
_AT_ONCE = 512


class Strangeness:
    """The numbers of texts, after a part of the reference was seen."""

    def __init__(self, space: Space, known: Points, words: Iterable[str]) -> None:
        self._space = space
        self._points = known
        self._middle = known.mean(axis=0)
        self._directions = self._principal()
        self._words = frozenset(words)

    def points(self, texts: Sequence[str]) -> Points:
        """(texts, width): where they lie."""
        return self._space.points(list(texts))

    def of(self, texts: Sequence[str], points: Points) -> NDArray[np.float64]:
        """(texts, len(NAMES)): the numbers, rounded so that a last bit decides nothing."""
        found = np.zeros((len(texts), len(NAMES)))
        for start in range(0, len(texts), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found[part, 0] = 1 - (points[part] @ self._points.T).max(axis=1, initial=0.0)
            found[part, 1 : 1 + DIRECTIONS] = (points[part] - self._middle) @ self._directions.T
        found[:, -2] = [len(text) for text in texts]
        found[:, -1] = [self._unknown(text) for text in texts]
        return np.round(found, 6)

    def _principal(self) -> NDArray[np.float32]:
        """(DIRECTIONS, width): the principal axes of the known points, each with a sign of its own; zero beyond."""
        _, _, axes = np.linalg.svd(self._points - self._middle, full_matrices=False)
        axes = axes[:DIRECTIONS]
        peaks = np.abs(axes).argmax(axis=1)
        axes = axes * np.sign(axes[np.arange(len(axes)), peaks])[:, None]
        return np.vstack([axes, np.zeros((DIRECTIONS - len(axes), axes.shape[1]))]).astype(np.float32)

    def _unknown(self, text: str) -> float:
        words = words_of(text)
        return sum(word not in self._words for word in words) / max(1, len(words))


def words_of(text: str) -> list[str]:
    """The words of a text, without case."""
    return _WORD.findall(text.casefold())
