"""Laws of learning curves: a loss by the number of training rows, fitted, averaged and read beyond the last size.

A loss is what falls as rows are added: an error, or how far a metric is from its best value. Every law is
`floor + scale * shape(rows)` with a scale of at least 0, so that a fitted loss never rises. The shape has one or two
parameters, which are searched on a grid; floor and scale then follow from bounded least squares in closed form. The
search is exhaustive, so that the fit needs no start, depends on no solver's tolerance, and takes many curves at once.

Viering and Loog 2023, IEEE TPAMI 45(6), compare the laws; Domhan et al. 2015, IJCAI, average them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

HELD_OUT = 2
"""The largest sizes that a law must foretell from the smaller ones, where so many are left to fit."""
FEWEST_SIZES = 3
"""Sizes below which no law is fitted: two parameters fit any two points."""
NOISE = 0.01
"""How exactly a loss is known at best: laws that foretell it better than so count alike."""
SPREAD = 1.5
"""How far a forecast of twice the rows may lie off, in errors of the sizes that the laws did not see."""
LAW_SPREAD = 0.5
"""How much of a law's distance from the average counts in an interval. Both were chosen on 44 real curves
(`benchmarks/curve.py`)."""
FARTHEST = 1000
"""Times the largest size up to which a target is looked for."""


class CurveLaw(NamedTuple):
    """A shape that falls with the number of rows, relative to the largest measured size."""

    name: str
    shape: Callable[..., Floats]
    """(sizes,) of relative rows and the parameters to (sizes,)."""
    grid: tuple[tuple[float, ...], ...]
    """Values of each parameter that are tried."""

    def basis(self, relative: Floats) -> Floats:
        """(parameters, sizes): the shape at some sizes for all parameters."""
        import numpy as np

        return np.array([self.shape(relative, *parameters) for parameters in product(*self.grid)])


def _spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    """Numbers of equal ratio."""
    return tuple(low * (high / low) ** (at / (count - 1)) for at in range(count))


def _power(relative: Floats, power: float) -> Floats:
    found: Floats = relative**-power
    return found


def _shifted_power(relative: Floats, power: float, shift: float) -> Floats:
    found: Floats = (relative + shift) ** -power
    return found


def _weibull(relative: Floats, rate: float, power: float) -> Floats:
    import numpy as np

    found: Floats = np.exp(-((rate * relative) ** power))
    return found


def _morgan_mercer_flodin(relative: Floats, rate: float, power: float) -> Floats:
    return 1 / (1 + (rate * relative) ** power)


def _logarithm(relative: Floats) -> Floats:
    import numpy as np

    found: Floats = -np.log(relative)
    return found


LAWS: tuple[CurveLaw, ...] = (
    CurveLaw("power", _power, (_spaced(0.02, 4.0, 80),)),
    CurveLaw("shifted power", _shifted_power, (_spaced(0.05, 4.0, 32), _spaced(0.01, 3.0, 16))),
    CurveLaw("Weibull", _weibull, (_spaced(0.02, 400.0, 40), _spaced(0.15, 1.5, 16))),
    CurveLaw("Morgan-Mercer-Flodin", _morgan_mercer_flodin, (_spaced(0.02, 400.0, 40), _spaced(0.25, 3.0, 16))),
    CurveLaw("logarithm", _logarithm, ()),
)
"""Power law with a floor (Hestness et al. 2017), the same shifted, Weibull (with power 1 an exponential),
Morgan-Mercer-Flodin's (Gu et al. 2001), and a logarithm, which has no floor."""


@dataclass(frozen=True)
class FittedLaw:
    """One law fitted to several curves."""

    law: CurveLaw
    largest: float
    """Rows of the largest size: the unit of relative rows."""
    parameters: Floats
    """(curves, parameters)"""
    floor: Floats
    """(curves,)"""
    scale: Floats
    """(curves,)"""

    def predict(self, rows: Floats) -> Floats:
        """(curves, sizes): the loss at some numbers of rows."""
        relative = rows[None, :] / self.largest
        shape = self.law.shape(relative, *(column[:, None] for column in self.parameters.T))
        found: Floats = self.floor[:, None] + self.scale[:, None] * shape
        return found


def fit_law(law: CurveLaw, counts: Floats, curves: Floats, *, least: float = 0.0) -> FittedLaw:
    """Fit one law to (curves, sizes) of losses measured at (sizes,) rows; no floor lies below `least`.

    Least squares under scale >= 0 and floor >= least: of each point of the grid, the best of the free solution and the
    two edges.
    """
    import numpy as np

    largest = float(counts[-1])
    basis = law.basis(counts / largest)  # (grid, sizes)
    mean = curves.mean(axis=1)
    centred = basis - basis.mean(axis=1, keepdims=True)
    spread = np.maximum((centred**2).sum(axis=1), 1e-15)
    covariance = curves @ centred.T  # (curves, grid)
    scale = covariance / spread
    floor = mean[:, None] - scale * basis.mean(axis=1)
    flat_loss = ((curves - mean[:, None]) ** 2).sum(axis=1)
    bounded = bool(law.grid) and math.isfinite(least)  # what a logarithm calls its floor is its value at the end
    allowed = (scale >= 0) & (floor >= least) if bounded else scale >= 0
    best = _Best(np.zeros(len(curves), dtype=np.int64), np.maximum(mean, least), np.zeros(len(curves)), flat_loss)
    best = best.or_better(np.where(allowed, flat_loss[:, None] - covariance * scale, np.inf), floor, scale)
    if bounded:
        above = curves - least
        squares = (basis**2).sum(axis=1)
        grounded = np.maximum(above @ basis.T, 0.0) / np.maximum(squares, 1e-15)
        losses = (above**2).sum(axis=1)[:, None] - grounded**2 * squares
        best = best.or_better(losses, np.full_like(grounded, least), grounded)
    grid = np.array(list(product(*law.grid)), dtype=np.float64).reshape(len(basis), -1)
    return FittedLaw(law, largest, grid[best.point], best.floor, best.scale)


class _Best(NamedTuple):
    """The best fit of each curve so far."""

    point: NDArray[np.int64]
    floor: Floats
    scale: Floats
    loss: Floats

    def or_better(self, losses: Floats, floors: Floats, scales: Floats) -> _Best:
        """With (curves, grid) of other fits; the earlier one stays where they are equal."""
        import numpy as np

        point, at = np.round(losses, 14).argmin(axis=1), np.arange(len(losses))
        better = losses[at, point] < self.loss - 1e-14
        return _Best(
            np.where(better, point, self.point),
            np.where(better, floors[at, point], self.floor),
            np.where(better, scales[at, point], self.scale),
            np.where(better, losses[at, point], self.loss),
        )


@dataclass(frozen=True)
class CurveFit:
    """All laws fitted to several curves, and how much each counts."""

    laws: tuple[FittedLaw, ...]
    weights: Floats
    """(laws, curves): by how well each law foretold the largest sizes from the smaller ones; they sum to 1."""
    errors: Floats
    """(curves,): how far the average lay off those sizes, as a loss (root of the mean square)."""
    least: float
    last: Floats
    """(curves,): the measured loss at the largest size."""

    @cached_property
    def largest(self) -> float:
        """Rows of the largest size."""
        return self.laws[0].largest

    def predict_by_law(self, rows: Sequence[float]) -> Floats:
        """(laws, curves, sizes): the loss that each law foretells; none below the least."""
        import numpy as np

        counts = np.asarray(rows, dtype=np.float64)
        return np.maximum(np.stack([law.predict(counts) for law in self.laws]), self.least)

    def predict(self, rows: Sequence[float]) -> Floats:
        """(curves, sizes): the weighted average of all laws."""
        found: Floats = (self.weights[:, :, None] * self.predict_by_law(rows)).sum(axis=0)
        return found

    def drop(self, rows: float) -> Floats:
        """(curves,): how much the loss falls from the largest size to so many rows; never below 0."""
        import numpy as np

        found: Floats = np.maximum(-np.diff(self.predict([self.largest, rows]), axis=1)[:, 0], 0.0)
        return found


def fit_curves(
    counts: Floats, curves: Floats, *, least: float = 0.0, noise: float = NOISE, laws: Sequence[CurveLaw] = LAWS
) -> CurveFit:
    """Fit all laws to (curves, sizes) of losses measured at (sizes,) rows, the fewest first.

    Each law is weighted by how well it foretells the largest size, and the two largest, from the smaller ones. `noise`
    is how exactly a loss is known: laws whose errors are below count alike. `ValueError` for fewer than three sizes.
    """
    import numpy as np

    sizes = len(counts)
    if sizes < FEWEST_SIZES:
        raise ValueError(f"{sizes} sizes are too few for a law; at least {FEWEST_SIZES} are needed")
    fitted = tuple(fit_law(law, counts, curves, least=least) for law in laws)
    squares = np.zeros((len(laws), len(curves)))
    predicted, truth = [], []
    for held_out in range(1, HELD_OUT + 1):
        left = sizes - held_out
        if left < FEWEST_SIZES:
            break
        at = np.stack(
            [fit_law(law, counts[:left], curves[:, :left], least=least).predict(counts[left:]) for law in laws]
        )
        predicted.append(at)
        truth.append(curves[:, left:])
    if not predicted:
        weights = np.full((len(laws), len(curves)), 1 / len(laws))
        return CurveFit(fitted, weights, np.full(len(curves), noise), least, curves[:, -1])
    foretold, measured = np.concatenate(predicted, axis=2), np.concatenate(truth, axis=1)
    squares = ((foretold - measured) ** 2).mean(axis=2)
    weights = 1 / (squares + noise**2)
    weights /= weights.sum(axis=0)
    average = (weights[:, :, None] * foretold).sum(axis=0)
    errors = np.sqrt(((average - measured) ** 2).mean(axis=1))
    return CurveFit(fitted, weights, errors, least, curves[:, -1])


class ForecastNumber(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CurveForecast:
    """What a measured curve foretells, with intervals.

    An interval holds the spread over resamples of the measured rows and draws, over the laws by their weights, and how
    far the laws' average lay off the sizes that it did not see.
    """

    fit: CurveFit
    """The measured curve first, then its resamples."""
    seed: int

    @property
    def largest(self) -> float:
        """Rows of the largest size."""
        return self.fit.largest

    def loss(self, rows: float) -> ForecastNumber:
        """The loss at so many rows."""
        drops, found = self._drops(rows), self.fit.last - self.fit.drop(rows)
        return self._number(float(found[0]), self.fit.last[1:] - drops)

    def drop(self, rows: float) -> ForecastNumber:
        """How much the loss falls from the largest size to so many rows."""
        return self._number(float(self.fit.drop(rows)[0]), self._drops(rows), floor=0.0)

    def rows_until(self, loss: float) -> ForecastNumber:
        """How many rows bring the loss down to a value; infinite where they never do, as far as is looked.

        Looked at are up to a thousand times the largest size.
        """
        import numpy as np

        steps = self.largest * np.exp(np.linspace(0, math.log(FARTHEST), 400))
        mean = (self.fit.weights[:, :1, None] * self.fit.predict_by_law(steps.tolist())[:, :1]).sum(axis=0)
        paths = np.concatenate([mean, self._drawn(steps.tolist())])
        paths = self.fit.last[:, None] + paths - paths[:, :1]
        reached = paths <= loss
        found = np.where(reached.any(axis=1), steps[reached.argmax(axis=1)], np.inf)
        low, high = np.quantile(found[1:], [0.025, 0.975], method="nearest")
        return ForecastNumber(float(found[0]), min(float(low), float(found[0])), max(float(high), float(found[0])))

    def chance_within(self, loss: float, rows: float) -> float:
        """The share of resamples in which so many rows bring the loss down to a value."""
        import numpy as np

        return float(np.mean(self.fit.last[1:] - self._drops(rows) <= loss))

    def _laws(self) -> NDArray[np.int64]:
        """(resamples,): a law for each, drawn by its weight."""
        import numpy as np

        weights = self.fit.weights[:, 1:].cumsum(axis=0)
        draw = np.random.default_rng([self.seed, 1]).random((weights.shape[1],))
        return np.asarray((draw[None, :] > weights[:-1]).sum(axis=0), dtype=np.int64)

    def _drops(self, rows: float) -> Floats:
        """(resamples,): how much the loss falls, by the law of each and with how far laws lie off."""
        import numpy as np

        drawn = self._drawn([self.largest, rows])
        distance = abs(math.log2(max(rows, 1e-9) / self.largest))
        noise = np.random.default_rng([self.seed, 2]).standard_normal(len(drawn))
        found: Floats = drawn[:, 0] - drawn[:, 1] + SPREAD * distance * self.fit.errors[0] * noise
        return found

    def _drawn(self, rows: Sequence[float]) -> Floats:
        """(resamples, sizes): the average of each resample, moved towards the law that was drawn for it."""
        import numpy as np

        by_law = self.fit.predict_by_law(rows)[:, 1:]
        average = (self.fit.weights[:, 1:, None] * by_law).sum(axis=0)
        found: Floats = average + LAW_SPREAD * (by_law[self._laws(), np.arange(by_law.shape[1])] - average)
        return found

    def _number(self, value: float, resamples: Floats, floor: float | None = None) -> ForecastNumber:
        import numpy as np

        low, high = (float(end) for end in np.quantile(resamples, [0.025, 0.975]))
        low, high = min(low, value), max(high, value)
        if floor is not None:
            low, high = max(low, min(floor, value)), max(high, floor)
        return ForecastNumber(value, low, high)


def forecast_curve(
    counts: Floats,
    losses: Floats,
    resampled: Floats,
    *,
    least: float = 0.0,
    noise: float = NOISE,
    seed: int = 0,
) -> CurveForecast:
    """Fit a measured curve and its resamples.

    `losses` is (sizes, draws) at (sizes,) rows; `resampled` (resamples, sizes, draws) has the losses of the same draws
    on resamples of the measured rows. Which draws count in a resample is drawn here, the same for all sizes: draws are
    nested.
    """
    import numpy as np

    resamples, _, draws = resampled.shape
    picked = np.random.default_rng([seed, 0]).integers(0, draws, size=(resamples, 1, draws))
    curves = np.take_along_axis(resampled, np.broadcast_to(picked, resampled.shape), axis=2).mean(axis=2)
    fit = fit_curves(counts, np.vstack([losses.mean(axis=1)[None], curves]), least=least, noise=noise)
    return CurveForecast(fit, seed)


def resample_rows(rows: int, resamples: int, seed: int) -> Floats:
    """(resamples, rows): how often each row is in each resample."""
    import numpy as np

    found: Floats = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=resamples).astype(float)
    return found


def forecast_errors(
    counts: Floats, wrong: NDArray[np.bool_] | Floats, seed: int, resamples: int = 300
) -> CurveForecast:
    """The same of errors, from which measured row is wrong: (sizes, draws, rows)."""
    import numpy as np

    rows = wrong.shape[2]
    weights = resample_rows(rows, resamples, seed) / rows
    errors = wrong.astype(np.float64)
    return forecast_curve(counts, errors.mean(axis=2), np.einsum("sdr,br->bsd", errors, weights), seed=seed)
