"""Metrics of stated probabilities: expected calibration error and Brier score.

Label scores may be probabilities, or log-probabilities up to a constant (then a softmax over the labels is taken).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.core.errors import DataError, SourceLocation
from luthier.metrics.columns import InfluenceMetric, ValueWithInfluence
from luthier.metrics.metric import EvalPredictions, Metric, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block


class Ece(InfluenceMetric):
    """Expected calibration error: how far stated confidence lies from the share that was right, over equal bins.

    Guo et al. 2017. With b bins, the sum over bins of (rows in bin / rows) · |share right - mean confidence|. It is
    never negative, so that even a perfectly calibrated model scores above 0 on few rows, and a resample adds as much
    once more; a row's pull is its own distance, with the sign of its bin, which does not. The value is the plain one;
    the ends of its interval are moved down by what chance alone adds, as each bin's own spread tells (Bröcker 2012;
    Kumar et al. 2019), so that the value often stands in the interval's upper half.
    """

    kind: Literal["ece"] = "ece"
    version: ClassVar[int] = 2
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    needs: ClassVar[frozenset[Need]] = frozenset({"label_scores"})
    interval: ClassVar[str] = "bca95 of jackknife pulls less chance"
    bins: int = Field(default=15, ge=1, le=1000)
    """How many bins of equal width from 0 to 1; 15 as in Guo et al. 2017."""

    def pulled(self, answers: EvalPredictions) -> ValueWithInfluence:
        import numpy as np

        confidence, right = compute_confidences(answers)
        side = np.sign(self._bins(confidence, right).gap)
        toward = side[self._places(confidence)] * (right - confidence)
        return ValueWithInfluence(float(toward.mean()), toward - toward.mean())

    def bias(self, answers: EvalPredictions) -> tuple[float, float]:
        """What chance adds to the bins' distances, as far as it may (for the lower end) and as it does for gaps like
        those seen (for the upper)."""
        import numpy as np

        bins = self._bins(*compute_confidences(answers))
        least, observed = np.sqrt(np.maximum(bins.gap**2 - bins.error**2, 0.0)), np.abs(bins.gap)
        most, some = (float((bins.share * (_folded(far, bins.error) - far)).sum()) for far in (least, observed))
        return most, some

    def _bins(self, confidence: NDArray[np.float64], right: NDArray[np.float64]) -> _Bins:
        """The bins, those without rows included."""
        import numpy as np

        bin_indices = self._places(confidence)
        rows = np.bincount(bin_indices, minlength=self.bins)
        gap = np.bincount(bin_indices, right - confidence, self.bins) / np.maximum(rows, 1)
        share = (np.bincount(bin_indices, right, self.bins) + 1) / (rows + 2)
        return _Bins(rows / len(right), gap, np.sqrt(share * (1 - share) / np.maximum(rows, 1)))

    def _places(self, confidence: NDArray[np.float64]) -> NDArray[np.int64]:
        """Each row's bin."""
        import numpy as np

        return np.asarray(np.minimum((np.ceil(confidence * self.bins) - 1).clip(0), self.bins - 1), dtype=np.int64)

    def statistics(self, answers: EvalPredictions) -> Block:
        """(rows, 3): value and pull, 1, and the row's own distance."""
        import numpy as np

        confidence, right = compute_confidences(answers)
        return np.column_stack([super().statistics(answers), np.abs(right - confidence)])

    def together(self, a: EvalPredictions, b: EvalPredictions) -> tuple[Block, Block]:
        """As for one model, but a row pulls less where chance alone can turn its bin's distance round.

        A distance varies less than the gap then, and what it adds is the same for both models.
        """
        return self._calmed(a), self._calmed(b)

    def _calmed(self, answers: EvalPredictions) -> Block:
        import numpy as np

        block = self.statistics(answers)
        confidence, right = compute_confidences(answers)
        bins, bin_indices = self._bins(confidence, right), self._places(confidence)
        far = np.abs(bins.gap)
        spread = np.sqrt(np.maximum(far**2 + bins.error**2 - _folded(far, bins.error) ** 2, 0.0)) / bins.error
        block[:, 0] = far[bin_indices] + spread[bin_indices] * (block[:, 0] - far[bin_indices])
        return block

    def contributions(self, statistics: Block) -> NDArray[np.float64]:
        """How far each row's confidence lies from what came true."""
        import numpy as np

        return np.asarray(statistics[:, 2], dtype=np.float64)


class _Bins(NamedTuple):
    """What is known of bins, (bins,) each."""

    share: NDArray[np.float64]
    """Of all rows."""
    gap: NDArray[np.float64]
    """Share right less mean confidence."""
    error: NDArray[np.float64]
    """The gap's standard error."""


def _folded(far: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far from 0 lies, on average, what is scattered about `far` (the mean of a folded normal)."""
    import numpy as np
    from scipy.special import ndtr

    ratio = far / error
    return np.asarray(error * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + far * (1 - 2 * ndtr(-ratio)))


class Brier(Metric):
    """Mean squared distance between the stated probabilities and what came true.

    Halved for two labels, so that it runs from 0 to 1 as for one probability; from 0 to 2 for more labels.
    """

    kind: Literal["brier"] = "brier"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (0.0, 2.0)
    needs: ClassVar[frozenset[Need]] = frozenset({"label_scores"})
    single_reference: ClassVar[bool] = True

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        labels, probs = label_probabilities(answers.label_scores or ())
        number = {label: index for index, label in enumerate(labels)}
        known = np.zeros_like(probs)
        missed = np.zeros(len(answers))
        for row, (reference,) in enumerate(answers.references):
            if reference in number:
                known[row, number[reference]] = 1
            else:
                missed[row] = 1  # the true label got no score: its probability was 0
        squared = ((probs - known) ** 2).sum(axis=1) + missed
        scale = 0.5 if len(labels) == 2 else 1.0
        return np.stack([scale * squared, np.ones(len(answers))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)


def label_probabilities(label_scores: Sequence[Mapping[str, float]]) -> tuple[list[str], NDArray[np.float64]]:
    """Labels in order, and the stated probability of each, (rows, labels)."""
    import numpy as np

    labels = sorted({label for row in label_scores for label in row})
    scores = np.full((len(label_scores), len(labels)), -np.inf)
    number = {label: index for index, label in enumerate(labels)}
    for row, given in enumerate(label_scores):
        for label, score in given.items():
            scores[row, number[label]] = score
    plain = np.where(np.isfinite(scores), scores, 0.0)
    if (plain >= 0).all() and np.allclose(plain.sum(axis=1), 1.0, atol=1e-3):
        return labels, plain
    if (plain > 0).any():
        what = "label_scores are neither probabilities (from 0, adding up to 1) nor log-probabilities (up to 0)"
        raise DataError(what, where=SourceLocation(field="label_scores"))
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return labels, shifted / shifted.sum(axis=1, keepdims=True)


def compute_confidences(answers: EvalPredictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Stated probability of each row's own prediction, and whether the prediction is right (1) or wrong (0)."""
    import numpy as np

    labels, probs = label_probabilities(answers.label_scores or ())
    number = {label: index for index, label in enumerate(labels)}
    confidence = np.zeros(len(answers))
    for row, prediction in enumerate(answers.predictions):
        if prediction in number:
            confidence[row] = probs[row, number[prediction]]
    pairs = zip(answers.predictions, answers.references, strict=True)
    return confidence.clip(0, 1), np.array([prediction in references for prediction, references in pairs], dtype=float)
