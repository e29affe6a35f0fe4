"""Whether the texts of two classes are alike, by what a plain classifier makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.row import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_ROWS = 200
"""Rows of a class that are compared."""
_FEW_ROWS = 4
"""Of fewer rows of a class, nothing is known of how well two are told apart."""
_NEAREST = 0.5
"""So many of a class's rows go to the other class where their own is not among the choices."""
_TOLD_APART = 0.75
"""Area under the ROC curve from which two classes are told apart by their texts."""


class ClassTexts:
    """The texts of some rows by class."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        by_class: dict[str, list[str]] = {}
        for row in rows:
            by_class.setdefault(row.answer, []).append(row.prompt)
        self._texts = {label: texts[:_MOST_ROWS] for label, texts in by_class.items()}
        self._seed = seed

    def alike(self, one: str, other: str) -> bool:
        """Whether the rarer class's texts are taken for the other's rather than for a third's, and are not told apart.

        False where there is no third class, whose texts would show what unlike ones are.
        """
        if one not in self._texts or other not in self._texts or len(self._texts) < 3:
            return False
        rare, usual = sorted((one, other), key=lambda label: (len(self._texts[label]), label))
        return self._is_nearest(rare, usual) and not self._are_told_apart(rare, usual)

    def _is_nearest(self, rare: str, usual: str) -> bool:
        from luthier.models.plain import classifier

        others = [label for label in sorted(self._texts) if label != rare]
        matrix, codes = self._features([*others, rare])
        known = codes < len(others)
        said = classifier().fit(matrix[known], codes[known]).predict(matrix[~known])
        return bool((said == others.index(usual)).mean() > _NEAREST)

    def _are_told_apart(self, rare: str, usual: str) -> bool:
        from sklearn.metrics import roc_auc_score

        from luthier.models.plain import FOLDS, held_on

        if (rows := len(self._texts[rare])) < _FEW_ROWS:
            return False
        matrix, codes = self._features([usual, rare])
        return bool(
            roc_auc_score(codes, held_on(matrix, codes, seed=self._seed, count=min(FOLDS, rows)).chances[:, 1])
            >= _TOLD_APART
        )

    def _features(self, labels: Sequence[str]) -> tuple[Any, NDArray[np.int64]]:
        """(rows, terms) of the texts of some classes, and (rows,) the place of each row's class among them."""
        import numpy as np

        from luthier.models.plain import features

        texts = [text for label in labels for text in self._texts[label]]
        return features(texts), np.repeat(np.arange(len(labels)), [len(self._texts[label]) for label in labels])
