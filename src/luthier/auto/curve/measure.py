"""A metric by number of training rows, with what further rows should bring, in the metric's own direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING

from luthier.metrics.learning_curve import (
    FEWEST_SIZES,
    NOISE,
    CurveForecast,
    ForecastNumber,
    forecast_curve,
    resample_rows,
)
from luthier.metrics.metric import GREATEST, EvalPredictions, Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block

    Floats = NDArray[np.float64]

RESAMPLES = 300
"""Resamples of the measured rows and the draws."""


@dataclass(frozen=True)
class CurveAnswers:
    """Answers to the same rows after learning from each number of rows, as a metric's sufficient statistics."""

    metric: Metric
    counts: tuple[int, ...]
    """Training rows of each size, the fewest first."""
    draws: int
    together: EvalPredictions
    """All answers, by size, draw and row."""
    block: Block
    """The metric's statistics of all answers, so that their columns mean the same."""

    @classmethod
    def of(cls, metric: Metric, counts: Sequence[int], answers: Sequence[Sequence[EvalPredictions]]) -> CurveAnswers:
        """Take answers by size and by draw; `DataError` where they lack what the metric reads."""
        together = reduce(EvalPredictions.joined, (predictions for by_draw in answers for predictions in by_draw))
        metric.check(together)
        return cls(metric, tuple(counts), len(answers[0]), together, metric.statistics(together))

    def of_metric(self, metric: Metric) -> CurveAnswers:
        """The answers measured by another metric."""
        return CurveAnswers(metric, self.counts, self.draws, self.together, metric.statistics(self.together))

    def __len__(self) -> int:
        return len(self.together) // (len(self.counts) * self.draws)

    @property
    def predictions(self) -> EvalPredictions:
        """The answers of the first draw at the largest size."""
        start = (len(self.counts) - 1) * self.draws * len(self)
        return self.together.select(range(start, start + len(self)))

    def curve(self, rows: Sequence[int] | None = None, *, seed: int = 0) -> MeasuredCurve:
        """The curve on all rows or on some of them, by number, with its resamples."""
        import numpy as np

        chosen = np.arange(len(self)) if rows is None else np.array(rows)
        count = len(chosen)
        weights = np.vstack([np.ones(count), resample_rows(count, RESAMPLES, seed)])
        values = np.stack(
            [
                np.stack([self._values(size, draw, chosen, weights) for draw in range(self.draws)], axis=1)
                for size in range(len(self.counts))
            ],
            axis=1,
        )  # (1 + resamples, sizes, draws)
        return MeasuredCurve(self.metric, self.counts, values[0], values[1:], count, seed)

    def _values(self, size: int, draw: int, rows: NDArray[np.int64], weights: Floats) -> Floats:
        import numpy as np

        start = (size * self.draws + draw) * len(self)
        return self.metric.value(np.asarray(weights @ self.block[start + rows]))


@dataclass(frozen=True)
class MeasuredCurve:
    """A metric at each number of training rows."""

    metric: Metric
    counts: tuple[int, ...]
    values: Floats
    """(sizes, draws)"""
    resampled: Floats
    """(resamples, sizes, draws): the same on resamples of the measured rows."""
    rows: int
    """Measured rows."""
    seed: int

    @property
    def is_drawn(self) -> bool:
        """Whether there are enough sizes to extrapolate."""
        return len(self.counts) >= FEWEST_SIZES

    @property
    def upward(self) -> bool:
        """Whether higher is better."""
        return self.metric.better == "higher"

    @property
    def _best_value(self) -> float:
        """The best value there can be; 0 where there is none, and losses may then be of either sign."""
        best = self.metric.bounds[1 if self.upward else 0]
        return best if abs(best) < GREATEST else 0.0

    @cached_property
    def forecast(self) -> CurveForecast:
        """The laws of the losses: how far the metric is from its best value."""
        import numpy as np

        bounded = abs(self.metric.bounds[1 if self.upward else 0]) < GREATEST
        sign = -1.0 if self.upward else 1.0
        return forecast_curve(
            np.array(self.counts, dtype=np.float64),
            sign * (self.values - self._best_value),
            sign * (self.resampled - self._best_value),
            least=0.0 if bounded else -math.inf,
            noise=NOISE * self.metric.whole(),
            seed=self.seed,
        )

    def measured(self, size: int) -> ForecastNumber:
        """The metric at one of the sizes, mean over draws, with its interval over measured rows."""
        import numpy as np

        value = float(self.values[size].mean())
        low, high = np.quantile(self.resampled[:, size].mean(axis=1), [0.025, 0.975])
        return ForecastNumber(value, min(float(low), value), max(float(high), value))

    def expected(self, rows: float) -> ForecastNumber:
        """Return the predicted metric at a number of rows."""
        value, low, high = self.forecast.loss(rows)
        if not self.upward:
            return self._clip_to_bounds(value + self._best_value, low + self._best_value, high + self._best_value)
        return self._clip_to_bounds(self._best_value - value, self._best_value - high, self._best_value - low)

    def _clip_to_bounds(self, *numbers: float) -> ForecastNumber:
        least, most = self.metric.bounds
        return ForecastNumber(*(min(max(number, least), most) for number in numbers))

    def gain(self, rows: float) -> ForecastNumber:
        """Return the predicted gain of the metric at a number of rows: at least 0, in the better direction."""
        return self.forecast.drop(rows)

    def rows_until(self, value: float) -> ForecastNumber:
        """Return the rows at which the metric reaches a value; infinite where it never does."""
        return self.forecast.rows_until(self._loss_of(value))

    def chance_within(self, value: float, rows: float) -> float:
        """Return the probability that a number of rows reaches a value."""
        return self.forecast.chance_within(self._loss_of(value), rows)

    def _loss_of(self, value: float) -> float:
        return self._best_value - value if self.upward else value - self._best_value


def compare_answers(
    metric: Metric, before: EvalPredictions, after: EvalPredictions, *, seed: int = 0
) -> ForecastNumber:
    """The gain of a metric by other answers to the same rows, with the interval over the rows."""
    import numpy as np

    first, second = metric.together(before, after)
    weights = np.vstack([np.ones(len(before)), resample_rows(len(before), RESAMPLES, seed)])
    values = [metric.value(np.asarray(weights @ block)) for block in (first, second)]
    better = (values[1] - values[0]) * (1 if metric.better == "higher" else -1)
    low, high = np.quantile(better[1:], [0.025, 0.975])
    return ForecastNumber(float(better[0]), min(float(low), float(better[0])), max(float(high), float(better[0])))
