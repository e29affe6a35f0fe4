"""Texts as points: the role `embedder`, which duplicates, outliers, shift, selection, relevance and drift share.

An embedder is settings. It opens a *space*, which holds what is needed (weights, or what was learnt from texts) and
makes a point of any text. A point depends on its text and the space alone, bit by bit: neither on the texts that are
asked about together nor on their order. A space that was kept in a folder (`kept_space`) makes the same points again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from luthier.core.component import Component

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Points = NDArray[np.float32]
    """(texts, width): unit vectors, or zero for a text of which nothing is known."""


class Space(Protocol):
    """Where texts lie."""

    @property
    def width(self) -> int:
        """How many numbers a point has."""
        ...

    def points(self, texts: Sequence[str]) -> Points:
        """A point for each text: at unit length, or zero where nothing of the text is known here."""
        ...


class Embedder(Component):
    """A way to make points of texts, near each other where texts are alike."""

    role: ClassVar[str] = "embedder"
    home: ClassVar[str] = "luthier.models.embedders"
    learns_from: ClassVar[int | None] = None
    """How many texts it learns from at most; None: from none, and the same text is the same point in every space."""

    @abstractmethod
    def space(self, texts: Iterable[str], *, base: Path, seed: int) -> Space:
        """Open the space; one that is learnt is learnt from these texts, in whatever order they come.

        They are gone through once, and at most `learns_from` of them are kept. Relative paths start at `base`, the
        recipe's folder.
        """

    def points(self, texts: Sequence[str], *, base: Path, seed: int) -> Points:
        """The points of texts in the space that is learnt from them."""
        return self.space(texts, base=base, seed=seed).points(texts)

    def keep(self, space: Space, folder: Path) -> None:
        """Write what a space of this embedder learnt from texts into a folder; what learns nothing writes nothing."""
        return

    def kept(self, folder: Path, *, base: Path) -> Space:
        """Open the space whose learning `keep` wrote into this folder."""
        return self.space((), base=base, seed=0)


def cosines(one: Points, other: Points) -> NDArray[np.float64]:
    """(pairs,): the cosine of each pair of points, the same whichever comes first and whatever stands beside it."""
    import numpy as np

    products = one.astype(np.float64) * other.astype(np.float64)
    found: NDArray[np.float64] = np.clip(products.sum(axis=1), -1.0, 1.0)
    return found
