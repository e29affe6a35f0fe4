"""Precision, recall and F1 of one label; all equal scikit-learn's for that label.

A label that is never predicted has precision 0, one without rows has recall 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.metrics.kinds.answers import ratio_of_sums
from luthier.metrics.metric import EvalPredictions, Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block


class BinaryLabelMetric(Metric):
    """Base of metrics of one label against the rest, such as its precision and recall."""

    about: ClassVar[Literal["classes", "texts"] | None] = "classes"
    proportion: ClassVar[bool] = True
    label: str | None = None
    """The label that is meant; left out, the one that fewest rows bear, as the note then says."""

    def statistics(self, answers: EvalPredictions) -> Block:
        """(rows, 2): whether a row that counts is a hit, and whether it counts."""
        import numpy as np

        label = self.meant(answers)
        predicted = np.array([prediction == label for prediction in answers.predictions])
        real = np.array([label in references for references in answers.references])
        return np.stack([predicted & real, self.counting(predicted, real)], axis=1).astype(np.float64)

    @abstractmethod
    def counting(self, predicted: NDArray[np.bool_], real: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which rows count, from those that were given the label and those that bear it."""

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)

    def meant(self, answers: EvalPredictions) -> str:
        """The label that is measured."""
        if self.label is not None:
            return self.label
        rows = Counter(label for references in answers.references for label in references)
        return min(rows, key=lambda label: (rows[label], label))

    def caution(self, answers: EvalPredictions) -> str:
        return f"of label {self.meant(answers)!r}, the rarest" if self.label is None else ""

    def undefined(self, answers: EvalPredictions) -> str:
        label = self.meant(answers)
        occurs = label in answers.predictions or any(label in references for references in answers.references)
        return "" if occurs else f"no row bears or was given label {label!r}"


class Precision(BinaryLabelMetric):
    """Share of the rows that were given a label that bear it."""

    kind: Literal["precision"] = "precision"
    same_rows: ClassVar[bool] = False
    added: ClassVar[float] = 0.5

    def counting(self, predicted: NDArray[np.bool_], real: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The rows that were given the label."""
        return predicted


class Recall(BinaryLabelMetric):
    """Share of the rows that bear a label that were given it."""

    kind: Literal["recall"] = "recall"

    def counting(self, predicted: NDArray[np.bool_], real: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The rows that bear the label."""
        return real


class F1(BinaryLabelMetric):
    """F1 of one label: the harmonic mean of its precision and recall.

    It is 2 j / (1 + j) of j, the share of right rows among those that were given the label or bear it.
    """

    kind: Literal["f1"] = "f1"
    same_rows: ClassVar[bool] = False
    added: ClassVar[float] = 0.5

    def counting(self, predicted: NDArray[np.bool_], real: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The rows that were given the label or bear it."""
        return predicted | real

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        share = ratio_of_sums(sums)
        return 2 * share / (1 + share)

    def of_share(self, share: float) -> float:
        return 2 * share / (1 + share)
