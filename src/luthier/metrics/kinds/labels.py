"""Metrics of labels: accuracy, precision, recall and F1 over classes, Matthews' correlation.

Classes are those that occur, as a reference or as a prediction, among the rows; a class that is never predicted has
precision 0, one without rows has recall 0. All equal scikit-learn's on the same rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.core.errors import DataError
from luthier.metrics.metric import EvalPredictions, Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block

MOST_CLASSES = 2000
"""Beyond this, answers are texts rather than labels."""


class CorrectShareMetric(Metric):
    """Base of metrics that are the share of correct predictions."""

    proportion: ClassVar[bool] = True

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        pairs = zip(answers.predictions, answers.references, strict=True)
        return np.array([(prediction in references, 1.0) for prediction, references in pairs], dtype=np.float64)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return _ratio(sums[:, 0], sums[:, 1])


class Accuracy(CorrectShareMetric):
    """Share of rows whose prediction is exactly one of the references."""

    kind: Literal["accuracy"] = "accuracy"
    about: ClassVar[Literal["classes", "texts"] | None] = "classes"


class SingleLabelShareMetric(CorrectShareMetric):
    """Base of metrics of labels that come to the share of right rows, since every row has one label."""

    about: ClassVar[Literal["classes", "texts"] | None] = "classes"
    single_reference: ClassVar[bool] = True

    def statistics(self, answers: EvalPredictions) -> Block:
        _classes(self.kind, answers)
        return super().statistics(answers)


class PerClassMetric(Metric):
    """Base of metrics over classes: for each class, rows rightly predicted, rows predicted, rows that bear it."""

    about: ClassVar[Literal["classes", "texts"] | None] = "classes"
    single_reference: ClassVar[bool] = True
    added: ClassVar[float] = 0.5

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np
        from scipy.sparse import csr_array

        references = [row[0] for row in answers.references]
        classes = _classes(self.kind, answers)
        number = {label: index for index, label in enumerate(classes)}
        predicted = np.array([number[label] for label in answers.predictions])
        real = np.array([number[label] for label in references])
        rows, count = len(answers), len(classes)
        columns = np.stack([predicted, predicted + count, real + 2 * count], axis=1)
        entries = np.ones((rows, 3))
        entries[:, 0] = predicted == real
        starts = np.arange(0, 3 * rows + 1, 3)
        return csr_array((entries.ravel(), columns.ravel(), starts), shape=(rows, 3 * count))

    def contributions(self, statistics: Block) -> NDArray[np.float64]:
        """1 where the row is right, 0 where it is wrong."""
        import numpy as np

        return np.asarray(statistics[:, : statistics.shape[1] // 3].sum(axis=1), dtype=np.float64).ravel()


class BalancedAccuracy(PerClassMetric):
    """Mean over the classes that rows bear of the share of a class's rows that are found."""

    kind: Literal["balanced_accuracy"] = "balanced_accuracy"

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        right, _, real = _parts(sums)
        return _ratio(_ratio(right, real).sum(axis=1), (real > 0).sum(axis=1).astype(float))


class MacroPrecision(PerClassMetric):
    """Mean over classes of the share of a class's predictions that are right."""

    kind: Literal["macro_precision"] = "macro_precision"

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        right, predicted, _ = _parts(sums)
        return _mean_of_present(_ratio(right, predicted), sums)


class MacroRecall(PerClassMetric):
    """Mean over classes of the share of a class's rows that are found."""

    kind: Literal["macro_recall"] = "macro_recall"

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        right, _, real = _parts(sums)
        return _mean_of_present(_ratio(right, real), sums)


class MacroF1(PerClassMetric):
    """Mean over classes of F1: every class counts alike, however rare."""

    kind: Literal["macro_f1"] = "macro_f1"

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return _mean_of_present(_f1(sums), sums)


class WeightedPrecision(PerClassMetric):
    """Mean over classes of precision, each class weighted by its rows."""

    kind: Literal["weighted_precision"] = "weighted_precision"

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        right, predicted, real = _parts(sums)
        return _ratio((_ratio(right, predicted) * real).sum(axis=1), real.sum(axis=1))


class WeightedRecall(SingleLabelShareMetric):
    """Mean over classes of recall, each class weighted by its rows; with one label a row it equals accuracy."""

    kind: Literal["weighted_recall"] = "weighted_recall"


class WeightedF1(PerClassMetric):
    """Mean over classes of F1, each class weighted by its rows."""

    kind: Literal["weighted_f1"] = "weighted_f1"

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        _, _, real = _parts(sums)
        return _ratio((_f1(sums) * real).sum(axis=1), real.sum(axis=1))


class MicroPrecision(SingleLabelShareMetric):
    """Precision over all rows together; with one label a row it equals accuracy."""

    kind: Literal["micro_precision"] = "micro_precision"


class MicroRecall(SingleLabelShareMetric):
    """Recall over all rows together; with one label a row it equals accuracy."""

    kind: Literal["micro_recall"] = "micro_recall"


class MicroF1(SingleLabelShareMetric):
    """F1 over all rows together; with one label a row it equals accuracy."""

    kind: Literal["micro_f1"] = "micro_f1"


class Mcc(PerClassMetric):
    """Matthews' correlation between predicted and real classes: 1 perfect, 0 as good as chance or one class only."""

    kind: Literal["mcc"] = "mcc"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        right, predicted, real = _parts(sums)
        rows = real.sum(axis=1)
        shared = right.sum(axis=1) * rows - (predicted * real).sum(axis=1)
        spread = (rows**2 - (predicted**2).sum(axis=1)) * (rows**2 - (real**2).sum(axis=1))
        return _ratio(shared, np.sqrt(np.maximum(spread, 0.0)))


def _classes(kind: str, answers: EvalPredictions) -> list[str]:
    """The labels that are borne or given, in order; `DataError` where answers are no labels."""
    classes = sorted({*(row[0] for row in answers.references), *answers.predictions})
    if len(classes) > MOST_CLASSES:
        what = f"{kind} is about labels, and these rows have {len(classes):,} different answers"
        raise DataError(what, hint="use exact_match, token_f1 or rougeL for texts")
    return classes


def _parts(
    sums: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows rightly predicted, predicted, and real, by class: (b, classes) each."""
    count = sums.shape[1] // 3
    return sums[:, :count], sums[:, count : 2 * count], sums[:, 2 * count :]


def _f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    right, predicted, real = _parts(sums)
    return _ratio(2 * right, predicted + real)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, and 0 where whole is 0."""
    import numpy as np

    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)


def _mean_of_present(values: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the classes that occur among the rows."""
    _, predicted, real = _parts(sums)
    present = (predicted + real) > 0
    return _ratio((values * present).sum(axis=1), present.sum(axis=1).astype(float))
