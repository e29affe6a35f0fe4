"""Discrete Gaussian noise: integers x with probability proportional to exp(-x²/2σ²), without any rounding.

Gaussian noise in floating point has gaps between its numbers, which can tell what was added to it (Mironov 2012, "On
Significance of the Least Significant Bits for Differential Privacy"). Integers have none (Canonne, Kamath and Steinke
2020, "The Discrete Gaussian for Differential Privacy").

The sampler is the rejection of Karney (2016, "Sampling exactly from the normal distribution") for integers: propose
x = ±(kσ + j) with P(k) = e^(-k/2) (1 - e^(-1/2)) and j uniform below σ, and accept it with probability exp(-h), where
h = (x² / σ² - k) / 2. Whether a uniform number lies below exp(-h) is decided in floating point where its first 32 bits
are further from it than any rounding error, and else by decimal arithmetic of as many digits as it needs. So each
decision is the exact one.
"""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.tune.privacy.noise import NoiseKey

GREATEST_DEVIATION = 1 << 56
"""Beyond it, a few standard deviations do not fit in 64 bits."""
_BITS = 32
"""Bits of a uniform number that are drawn first."""
_MARGIN = 2.0**-10
"""Upper bound of the rounding error of a probability in units of 2^-32; closer decisions use decimals."""
_BLOCK = 1 << 18
"""Numbers drawn at once."""
_PROPOSALS = 2.2
"""Proposals for each number; nearly half of them are accepted, if σ is a power of two."""
_LEVELS = np.exp(-np.arange(64, 0, -1) / 2) * 2.0**_BITS
"""e^(-m/2) in units of 2^-32, ascending."""


def draw_discrete_gaussian(key: NoiseKey, label: str, count: int, deviation: int) -> NDArray[np.int64]:
    """Draw (count,) int64 independent numbers with σ = `deviation`; the same ones for the same key and label."""
    if not 1 <= deviation <= GREATEST_DEVIATION:
        raise ValueError(f"a discrete Gaussian has a deviation of 1 to 2^56, got {deviation}")
    samples = np.empty(count, dtype=np.int64)
    for first in range(0, count, _BLOCK):
        size, filled, attempt = min(_BLOCK, count - first), 0, 0
        while filled < size:
            drawn = _propose(key, f"{label}/{first}/{attempt}", size - filled, deviation)[: size - filled]
            samples[first + filled : first + filled + len(drawn)] = drawn
            filled, attempt = filled + len(drawn), attempt + 1
    return samples


def _propose(key: NoiseKey, label: str, missing: int, deviation: int) -> NDArray[np.int64]:
    """Return the accepted samples of about as many proposals as are needed."""
    width = (deviation - 1).bit_length()
    count = int(missing * _PROPOSALS * (1 << width) / deviation) + 16
    stream = key.draw_bytes(label, 16 * count)
    words = np.frombuffer(stream, dtype="<u8", count=count)
    negative = words >> np.uint64(63) == 1
    below = (words & np.uint64((1 << width) - 1)).astype(np.int64)
    halves = np.frombuffer(stream, dtype="<u4", offset=8 * count)
    inside = np.flatnonzero(below < deviation)
    negative, below = negative[inside], below[inside]
    steps = _count_steps(key, f"{label}/step", halves[:count][inside])
    accepted = _accept(key, f"{label}/accept", halves[count:][inside], steps, below, deviation)
    accepted &= ~(negative & (steps == 0) & (below == 0))  # 0 has one sign
    numbers = steps[accepted] * deviation + below[accepted]
    return np.where(negative[accepted], -numbers, numbers)


def _count_steps(key: NoiseKey, label: str, bits: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return how many of e^(-1/2), e^(-1), e^(-3/2), … are above each uniform number."""
    start = bits.astype(np.float64)
    least = len(_LEVELS) - np.searchsorted(_LEVELS, start + 1 + _MARGIN)
    most = len(_LEVELS) - np.searchsorted(_LEVELS, start - _MARGIN)
    for at in np.flatnonzero(least != most):
        steps = 0
        while _is_below(key, f"{label}/{at}", int(bits[at]), Fraction(steps + 1, 2)):
            steps += 1
        least[at] = steps
    return least


def _accept(
    key: NoiseKey,
    label: str,
    bits: NDArray[np.uint32],
    steps: NDArray[np.int64],
    below: NDArray[np.int64],
    deviation: int,
) -> NDArray[np.bool_]:
    """Return whether each uniform number is below the probability of its proposal."""
    part, whole = below / deviation, steps.astype(np.float64)
    level = np.exp(-(whole * (whole - 1) + part * (2 * whole + part)) / 2) * 2.0**_BITS
    start = bits.astype(np.float64)
    accepted = start + 1 + _MARGIN <= level
    for at in np.flatnonzero(~accepted & (start - _MARGIN <= level)):
        k, j = int(steps[at]), int(below[at])
        exponent = Fraction((k * deviation + j) ** 2 - k * deviation**2, 2 * deviation**2)
        accepted[at] = _is_below(key, f"{label}/{at}", int(bits[at]), exponent)
    return accepted


def _is_below(key: NoiseKey, label: str, first: int, exponent: Fraction) -> bool:
    """Return whether a uniform number in [0, 1) with these first 32 bits is below exp(-exponent); exact.

    Further bits are drawn until it is certain. `Decimal.exp` is correctly rounded, and the digits suffice for an error
    below one unit of the last bit.
    """
    if exponent <= 0:
        return True
    value, bits, more = first, _BITS, 0
    while True:
        with localcontext(Context(prec=40 + bits // 3 + len(str(int(exponent))))):
            level = int((Decimal(-exponent.numerator) / Decimal(exponent.denominator)).exp() * Decimal(2) ** bits)
        if value + 1 <= level - 1:
            return True
        if value > level + 1:
            return False
        more += 8
        value = first << (8 * more) | int.from_bytes(key.draw_bytes(label, more), "big")
        bits = _BITS + 8 * more
