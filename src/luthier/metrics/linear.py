"""Metrics that are no function of sums over rows: areas under curves, and measures of a whole set of answers.

Each is written as its value plus what every row pulls it up or down (the infinitesimal or the leave-one-out jackknife),
so that the mean over rows is exactly the value, and its spread over resamples is that of the metric to first order.
Intervals and paired tests then come from sums, as for all others.

Efron 1982, "The Jackknife, the Bootstrap and Other Resampling Plans"; DeLong et al. 1988 for areas under ROC curves.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from luthier.metrics.answers import Answers
from luthier.metrics.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.resample import Block


class Pulled(NamedTuple):
    """A value, and how far each row pulls it from what it would be without that row's weight."""

    value: float
    pulls: NDArray[np.float64]
    """(rows,), adding up to 0: with weights w of mean 1, the value is about value + mean(w · pulls)."""


class Linear(Metric):
    """Base of metrics with a pull for each row."""

    interval: ClassVar[str] = "bca95 of jackknife pulls"

    @abstractmethod
    def pulled(self, answers: Answers) -> Pulled:
        """The value on these rows, and each row's pull."""

    def statistics(self, answers: Answers) -> Block:
        import numpy as np

        value, pulls = self.pulled(answers)
        return np.stack([value + pulls, np.ones(len(answers))], axis=1)

    def together(self, a: Answers, b: Answers) -> tuple[Block, Block]:
        return self.statistics(a), self.statistics(b)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)


def above(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row, the summed weights of the rows with at least its score, its equals included."""
    import numpy as np

    _, place = np.unique(scores, return_inverse=True)
    return np.asarray(np.cumsum(np.bincount(place, weights)[::-1])[::-1][place])


def below(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row, the summed weights of the rows with at most its score, its equals included."""
    return above(-scores, weights)


def area_under_shares(scores: NDArray[np.float64], hits: NDArray[np.float64], over: NDArray[np.float64]) -> Pulled:
    """Mean, over the rows in `over` (0 or 1), of the share of hits among the rows with at least a row's score.

    Over the hits themselves it is average precision; over all rows, with errors for hits, the area under the
    risk-coverage curve.
    """
    import numpy as np

    deep = above(scores, np.ones(len(scores)))
    share = above(scores, hits) / deep
    number = over.sum()
    value = float((share * over).sum() / number)
    own = over * (share - value)
    others = hits * below(scores, over / deep) - below(scores, over * share / deep)
    return Pulled(value, len(scores) / number * (own + others))


def area_under_roc(scores: NDArray[np.float64], positive: NDArray[np.float64]) -> Pulled:
    """How often a positive row has a higher score than a negative one, ties counting half."""
    import numpy as np

    negative = 1 - positive
    number, others = positive.sum(), negative.sum()
    lower = (below(scores, negative) + others - above(scores, negative)) / 2
    higher = (above(scores, positive) + number - below(scores, positive)) / 2
    value = float((lower * positive).sum() / number / others)
    pulls = np.where(positive > 0, (lower / others - value) / number, (higher / number - value) / others)
    return Pulled(value, len(scores) * pulls)


def left_out(value: float, without: NDArray[np.float64]) -> Pulled:
    """Pulls from the value with each row left out in turn, (rows,)."""
    import numpy as np

    if len(without) < 2:
        return Pulled(value, np.zeros(len(without)))
    return Pulled(value, (len(without) - 1) * (without.mean() - without))
