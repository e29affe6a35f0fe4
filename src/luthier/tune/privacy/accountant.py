"""Privacy accounting by privacy loss distributions.

Each step includes a unit (a row, or a group of rows) with probability q, sums the clipped gradients, and adds Gaussian
noise of σ times the clipping norm. The privacy loss of a unit is the log-ratio of two densities, and its distribution
composes over steps by convolution. It is discretized on a grid such that its hockey-stick divergence is exact on the
grid and never lower between (Doroshenko et al. 2022, "Connect the Dots"), and steps are composed by the fast Fourier
transform (Koskela et al. 2020). All results are upper bounds, up to rounding of about 1e-11 in δ. Neighbouring data
sets differ by one added or removed unit; both directions are computed, and the worse one is reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Self

import numpy as np

from luthier.core.errors import RecipeError, SourceLocation

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTERVAL = 1e-4
"""Grid spacing of privacy losses, in nats, where the grid stays within `MOST_POINTS`. With little noise the spacing is
doubled as often as needed: the grid stays an upper bound, and a loss that needs it runs to hundreds of nats."""
LARGEST_INTERVAL = 0.1
"""Maximum grid spacing; a loss that needs more means no privacy (ε of a hundred thousand)."""
TAIL_MASS = 1e-15
"""Probability beyond both ends of a composed distribution; it counts as an infinite loss."""
REACH = 10.0
"""Standard deviations of the noise covered by the grid; the rest has a probability of 1e-23."""
MOST_POINTS = 1 << 22
"""Maximum points of a composed grid; their Fourier transform takes half a second."""
MOST_STEP_LOSS = 700.0
"""Maximum loss of one step, in nats: the exponential of a larger one overflows (noise multipliers below 0.04)."""
MOST_STEP_POINTS = 1 << 20
"""Maximum points of the grid of one step."""
LEAST_NOISE = 0.1
"""Smallest noise multiplier that is tried."""
GREATEST_NOISE = 1e4
"""Largest noise multiplier that is tried."""


@dataclass(frozen=True)
class PrivacyLossDistribution:
    """The privacy loss distribution of one unit, in one direction."""

    start: int
    """The first grid point is `start * interval`."""
    mass: NDArray[np.float64]
    """Probability of each grid point, (points,)."""
    infinite: float
    """Probability of an infinite loss."""
    interval: float = INTERVAL
    """Grid spacing, in nats."""

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """The grid points, in nats."""
        points: NDArray[np.float64] = np.arange(self.start, self.start + len(self.mass), dtype=np.float64)
        return points * self.interval

    def compose(self, times: int) -> PrivacyLossDistribution:
        """Return the distribution after `times` equal steps."""
        if times == 1:
            return self
        low, high = self.find_window(times)
        length = high - low + 1
        size = 1 << max(1, (max(length, len(self.mass)) - 1).bit_length())
        spectrum = np.fft.rfft(self.mass, size)
        powers = np.fft.irfft(spectrum**times, size)
        mass = np.take(powers, np.arange(low - times * self.start, high + 1 - times * self.start), mode="wrap")
        infinite = -math.expm1(times * math.log1p(-self.infinite)) + TAIL_MASS
        return PrivacyLossDistribution(low, np.maximum(mass, 0.0), infinite, self.interval)

    def join(self, other: PrivacyLossDistribution) -> PrivacyLossDistribution:
        """Return the distribution after the steps of both."""
        from scipy.signal import fftconvolve

        if self.interval != other.interval:
            wider = max(self.interval, other.interval)
            return self._widen(wider).join(other._widen(wider))
        mass = np.maximum(fftconvolve(self.mass, other.mass), 0.0)
        infinite = 1 - (1 - self.infinite) * (1 - other.infinite)
        return PrivacyLossDistribution(self.start + other.start, mass, infinite, self.interval)._truncate()

    def _widen(self, interval: float) -> PrivacyLossDistribution:
        """Return the distribution on a grid with a multiple of the spacing: every loss is rounded up."""
        times = round(interval / self.interval)
        if times == 1:
            return self
        points = -(-np.arange(self.start, self.start + len(self.mass)) // times)
        mass = np.bincount(points - points[0], weights=self.mass).astype(np.float64)
        return PrivacyLossDistribution(int(points[0]), mass, self.infinite, interval)

    def delta(self, epsilon: float) -> float:
        """Return δ at a given ε: the hockey-stick divergence."""
        first = int(np.searchsorted(self.losses, epsilon, "right"))
        return self.infinite + float(np.sum(self.mass[first:] * -np.expm1(epsilon - self.losses[first:])))

    def epsilon(self, delta: float) -> float:
        """Return the smallest ε ≥ 0 at a given δ; infinite where no ε reaches δ."""
        if self.delta(0.0) <= delta:
            return 0.0
        if self.infinite >= delta:
            return math.inf
        first, last = int(np.searchsorted(self.losses, 0.0, "right")), len(self.mass) - 1
        while first < last:  # the first point with a δ that is small enough; at the last point it is `infinite`
            middle = (first + last) // 2
            first, last = (first, middle) if self.delta(self.losses[middle]) <= delta else (middle + 1, last)
        at = self.losses[first]
        above, weighted = np.sum(self.mass[first:]), np.sum(self.mass[first:] * np.exp(at - self.losses[first:]))
        return max(0.0, float(at) + math.log((float(above) + self.infinite - delta) / float(weighted)))

    def find_window(self, times: int) -> tuple[int, int]:
        """Return grid indices between which the sum of `times` losses lies except for `TAIL_MASS`, by
        Chernoff's bound.
        """
        losses = self.losses
        with np.errstate(divide="ignore"):
            logs = np.log(self.mass)
        spread = math.sqrt(max(float(np.sum(self.mass * losses**2)), self.interval**2) * times)
        ends = []
        for sign in (-1.0, 1.0):
            best = sign * times * (losses[-1] if sign > 0 else losses[0])
            for rate in np.geomspace(0.01, 100.0, 16) / spread:
                exponents = sign * rate * losses + logs
                peak = float(exponents.max())
                moment = peak + math.log(float(np.sum(np.exp(exponents - peak))))
                best = min(best, (times * moment - math.log(TAIL_MASS / 2)) / rate)
            ends.append(sign * best)
        return math.floor(ends[0] / self.interval), math.ceil(ends[1] / self.interval)

    def _truncate(self) -> PrivacyLossDistribution:
        """Return the distribution without the ends that hold `TAIL_MASS`: the lower end moves up, the upper end counts
        as infinite.
        """
        from_below, from_above = np.cumsum(self.mass), np.cumsum(self.mass[::-1])[::-1]
        first = int(np.searchsorted(from_below, TAIL_MASS))
        last = len(self.mass) - int(np.searchsorted(from_above[::-1], TAIL_MASS))
        mass = self.mass[first:last].copy()
        mass[0] += from_below[first - 1] if first else 0.0
        beyond = float(from_above[last]) if last < len(self.mass) else 0.0
        return PrivacyLossDistribution(self.start + first, mass, self.infinite + beyond, self.interval)


@dataclass(frozen=True)
class PrivacyAccount:
    """The privacy loss of one unit over the steps so far, in both directions."""

    removed: PrivacyLossDistribution
    """Loss when the unit is removed."""
    added: PrivacyLossDistribution
    """Loss when the unit is added."""

    @classmethod
    def of(cls, noise: float, sampling: float, steps: int) -> Self:
        """Build the account of `steps` steps with noise multiplier σ that include a unit with probability
        `sampling`.
        """
        return cls(*(compute_composed_loss(noise, sampling, steps, removed=way) for way in (True, False)))

    def join(self, other: PrivacyAccount) -> PrivacyAccount:
        """Compose two accounts over the same units."""
        return PrivacyAccount(self.removed.join(other.removed), self.added.join(other.added))

    def epsilon(self, delta: float) -> float:
        """Return ε at a given δ."""
        return max(self.removed.epsilon(delta), self.added.epsilon(delta))

    def delta(self, epsilon: float) -> float:
        """Return δ at a given ε."""
        return max(self.removed.delta(epsilon), self.added.delta(epsilon))


def compute_composed_loss(noise: float, sampling: float, steps: int, *, removed: bool) -> PrivacyLossDistribution:
    """Return the privacy loss distribution of `steps` steps, on the finest grid that holds it.

    Raises:
        RecipeError: so little noise that the loss of one unit exceeds `MOST_STEP_LOSS` in one step, or needs a grid
            wider than `LARGEST_INTERVAL`.
    """
    hint = "ask for a smaller epsilon"
    if (loss := _loss_at(1 + REACH * noise, noise, sampling)) > MOST_STEP_LOSS:
        what = f"so little noise gives no privacy: the loss of one unit in one step runs to {loss:,.0f} nats"
        raise RecipeError(what, where=SourceLocation(field="privacy"), hint=hint)
    interval = INTERVAL
    while interval <= LARGEST_INTERVAL:
        if (points := _count_step_points(noise, sampling, interval)) > MOST_STEP_POINTS:
            interval *= 2.0 ** math.ceil(math.log2(points / MOST_STEP_POINTS))
            continue
        step = compute_step_loss(noise, sampling, removed=removed, interval=interval)
        low, high = step.find_window(steps)
        if steps == 1 or high - low < MOST_POINTS:
            return step.compose(steps)
        interval *= 2.0 ** math.ceil(math.log2((high - low + 1) / MOST_POINTS))
    most = MOST_POINTS * LARGEST_INTERVAL
    what = f"so little noise gives no privacy: the loss of one unit runs over more than {most:,.0f} nats"
    raise RecipeError(what, where=SourceLocation(field="privacy"), hint=hint)


def _count_step_points(noise: float, sampling: float, interval: float) -> float:
    """Return the number of grid points of one step."""
    reach = REACH * noise
    return (_loss_at(1 + reach, noise, sampling) - _loss_at(-reach, noise, sampling)) / interval + 2


def compute_step_loss(
    noise: float, sampling: float, *, removed: bool, interval: float = INTERVAL
) -> PrivacyLossDistribution:
    """Return the privacy loss distribution of one step, pessimistic on the grid.

    With the unit, the sum is N(1, σ²) when it is included and N(0, σ²) when not. The mass between two grid points is
    divided between them such that it keeps its probability under either data set.
    """
    reach = REACH * noise
    ends = [_loss_at(x, noise, sampling) for x in (-reach, 1 + reach)]
    low, high = ends if removed else [-ends[1], -ends[0]]
    start = math.floor(low / interval)
    points = np.arange(start, math.ceil(high / interval) + 1)
    losses: NDArray[np.float64] = points.astype(np.float64) * interval
    where = _place_of(losses if removed else -losses, noise, sampling)
    with_unit, without = _mixture(where, noise, sampling), _normal_interval_probability(where / noise)
    observed, other = (with_unit, without) if removed else (-without, -with_unit)
    # (seen, other) of each cell: mass at its lower end `near` and at its upper end `far`, which keep both
    far = np.clip((observed - other * np.exp(losses[:-1])) / -math.expm1(-interval), 0.0, observed)
    mass = np.zeros(len(points))
    mass[:-1] += observed - far
    mass[1:] += far
    within = float(mass.sum())
    below = max(0.0, 1.0 - within)  # what lies below the grid moves up to its first point
    mass[0] += below
    return PrivacyLossDistribution(start, mass, _tail_probability(noise), interval)


@lru_cache(maxsize=64)
def find_noise(epsilon: float, delta: float, sampling: float, steps: int) -> float:
    """Return the smallest noise multiplier, to three decimals, with which `steps` steps stay within ε at δ."""
    low, high = 0.0, 1.0
    too_much = math.inf
    while (enough := PrivacyAccount.of(high, sampling, steps).epsilon(delta)) > epsilon:
        low, too_much, high = high, enough, 2 * high
        if high > GREATEST_NOISE:
            what = f"no noise keeps {steps} steps within epsilon {epsilon:g} at delta {delta:g}"
            raise RecipeError(what, where=SourceLocation(field="privacy"), hint="train fewer steps, or allow more")
    while high - low > 1e-3:
        # log ε is nearly a line over log σ; the guess stays within the bracket, a little beside the line
        guess = (low + high) / 2 if low else 0.7 * high
        if low and 0 < enough < epsilon < too_much < math.inf:
            share = math.log(too_much / epsilon) / math.log(too_much / enough)
            line = low * (high / low) ** share
            guess = min(max(line + (5e-4 if line < guess else -5e-4), low + 2e-4), high - 2e-4)
        spent = math.inf if guess < LEAST_NOISE else PrivacyAccount.of(guess, sampling, steps).epsilon(delta)
        if spent > epsilon:
            low, too_much = guess, spent
        else:
            high, enough = guess, spent
    return math.ceil(high * 1000) / 1000


def _loss_at(x: float, noise: float, sampling: float) -> float:
    """Return the log of the density with the unit over that without, at x."""
    exponent = (2 * x - 1) / (2 * noise**2)
    if sampling == 1:
        return exponent
    return float(np.logaddexp(math.log1p(-sampling), math.log(sampling) + exponent))


def _place_of(losses: NDArray[np.float64], noise: float, sampling: float) -> NDArray[np.float64]:
    """Return where the log-ratio of the densities has these values; minus infinity where it never does."""
    ratio = np.expm1(losses) + sampling
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = losses if sampling == 1 else np.log(ratio / sampling)
        positions: NDArray[np.float64] = np.where(ratio > 0, noise**2 * logs + 0.5, -np.inf)
    return positions


def _normal_interval_probability(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of a standard normal between neighbouring positions, exact in both tails; negative where
    positions decrease.
    """
    from scipy.special import ndtr

    left, right = positions[:-1], positions[1:]
    probabilities: NDArray[np.float64] = np.where(
        left + right > 0, ndtr(-left) - ndtr(-right), ndtr(right) - ndtr(left)
    )
    return probabilities


def _mixture(positions: NDArray[np.float64], noise: float, sampling: float) -> NDArray[np.float64]:
    """Return the probabilities of the outcomes under the data with the unit."""
    return (1 - sampling) * _normal_interval_probability(positions / noise) + sampling * _normal_interval_probability(
        (positions - 1) / noise
    )


def _tail_probability(noise: float) -> float:
    """Return the probability outside the grid."""
    from scipy.special import ndtr

    return float(2 * ndtr(-REACH)) if noise > 0 else 1.0
