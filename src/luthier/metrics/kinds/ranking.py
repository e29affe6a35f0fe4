"""Ranking metrics of scores: areas under the ROC, precision-recall and risk-coverage curves.

Scores of labels are read as for calibration. With several labels each is held against all others, and the mean over
labels counts (macro, one against the rest). AUROC and AUPRC equal scikit-learn's.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.metrics.columns import InfluenceMetric, ValueWithInfluence, area_under_roc, mean_hit_share
from luthier.metrics.kinds.calibration import compute_confidences, label_probabilities
from luthier.metrics.metric import EvalPredictions, How, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class CurveAreaMetric(InfluenceMetric):
    """Base of areas under ranking curves (ROC, precision-recall) of one label against the rest."""

    needs: ClassVar[frozenset[Need]] = frozenset({"label_scores"})
    single_reference: ClassVar[bool] = True
    nothing: ClassVar[float]
    """The value of scores that say nothing."""

    label: str | None = None
    """The label to find; left out, the mean over all labels that some rows bear and others do not."""

    @abstractmethod
    def area(self, scores: NDArray[np.float64], positive: NDArray[np.float64]) -> ValueWithInfluence:
        """The area for one label."""

    def pulled(self, answers: EvalPredictions) -> ValueWithInfluence:
        import numpy as np

        labels, probs = label_probabilities(answers.label_scores or ())
        unscored = np.zeros(len(answers))
        with_influences = [
            self.area(probs[:, labels.index(label)] if label in labels else unscored, _bearing(answers, label))
            for label in self.judged(answers)
        ]
        if not with_influences:
            return ValueWithInfluence(self.nothing, np.zeros(len(answers)))
        return ValueWithInfluence(
            float(np.mean([with_influence.value for with_influence in with_influences])),
            np.mean([with_influence.pulls for with_influence in with_influences], axis=0),
        )

    def judged(self, answers: EvalPredictions) -> list[str]:
        """The labels that some rows bear and others do not."""
        real = {row[0] for row in answers.references}
        selected = real if self.label is None else real & {self.label}
        return sorted(selected) if len(real) > 1 else []

    def undefined(self, answers: EvalPredictions) -> str:
        if self.judged(answers):
            return ""
        return "all rows bear one label, or none the expected one: there is nothing to rank"


class Auroc(CurveAreaMetric):
    """Area under the ROC curve: how often a row that bears a label has a higher score for it than one that does not."""

    kind: Literal["auroc"] = "auroc"
    nothing: ClassVar[float] = 0.5

    def area(self, scores: NDArray[np.float64], positive: NDArray[np.float64]) -> ValueWithInfluence:
        return area_under_roc(scores, positive)


class Auprc(CurveAreaMetric):
    """Area under the precision-recall curve, as average precision: by the label's score, no interpolation."""

    kind: Literal["auprc"] = "auprc"
    interval: ClassVar[str] = "logit95 of jackknife pulls"
    method: ClassVar[How] = "logit"
    nothing: ClassVar[float] = 0.0

    def area(self, scores: NDArray[np.float64], positive: NDArray[np.float64]) -> ValueWithInfluence:
        return mean_hit_share(scores, positive, positive)


class Aurc(InfluenceMetric):
    """Area under the risk-coverage curve: the mean, over all rows, of the share wrong among those at least as sure.

    Geifman and El-Yaniv 2017; 0 when nothing is wrong, the error rate when confidence says nothing.
    """

    kind: Literal["aurc"] = "aurc"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    needs: ClassVar[frozenset[Need]] = frozenset({"label_scores"})

    def pulled(self, answers: EvalPredictions) -> ValueWithInfluence:
        import numpy as np

        sure, right = compute_confidences(answers)
        return mean_hit_share(sure, 1 - right, np.ones(len(answers)))


class AccuracyAtCoverage(InfluenceMetric):
    """Share of right answers among the surest rows, the rest handed to somebody else."""

    kind: Literal["accuracy_at_coverage"] = "accuracy_at_coverage"
    interval: ClassVar[str] = "wilson95 of effective rows"
    method: ClassVar[How] = "share"
    needs: ClassVar[frozenset[Need]] = frozenset({"label_scores"})
    coverage: float = Field(default=0.8, gt=0, le=1)
    """Which share of the rows is answered."""

    def pulled(self, answers: EvalPredictions) -> ValueWithInfluence:
        """Rows that are as sure as the last one answered count by the share of them that is still wanted."""
        import numpy as np

        sure, right = compute_confidences(answers)
        target_count = self.coverage * len(answers)
        last = np.sort(sure)[::-1][int(np.ceil(target_count)) - 1]
        surer, equal = sure > last, sure == last
        taken = np.where(surer, 1.0, np.where(equal, (target_count - surer.sum()) / equal.sum(), 0.0))
        value = float((taken * right).sum() / target_count)
        edge = _local(sure, right, last)
        return ValueWithInfluence(value, (taken * (right - edge)) / self.coverage - (value - edge))


def _bearing(answers: EvalPredictions, label: str) -> NDArray[np.float64]:
    import numpy as np

    return np.array([row[0] == label for row in answers.references], dtype=np.float64)


def _local(sure: NDArray[np.float64], right: NDArray[np.float64], at: float) -> float:
    """Share of right answers among the rows that are about as sure: √rows of them, and all equals."""
    import numpy as np

    far = np.abs(sure - at)
    kth = min(len(far) - 1, max(10, int(len(far) ** 0.5)))
    return float(right[far <= np.partition(far, kth)[kth]].mean())
