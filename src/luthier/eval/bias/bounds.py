"""Intervals of gaps between groups, from sums (1, 2 groups) as `luthier.eval.bias.gaps` reads them.

A greatest difference is never negative, and the bootstrap would say of groups that are alike that they surely differ.
Here each two groups have their interval, from Wilson's of either (Newcombe's hybrid for differences, Donner and Zou's
for ratios). The gap is at most as large as the largest of their upper ends; and at least as large as the largest of
their lower ends, read at the level at which all hold together (Tukey's studentised range).

Newcombe 1998, Stat. Med. 17; Donner and Zou 2012, Stat. Methods Med. Res. 21; Tukey 1953.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from luthier.metrics.resample import Z95, wilson

if TYPE_CHECKING:
    from luthier.metrics.resample import Floats

Ends = tuple[float, float]
Bounds = Callable[["Floats"], Ends]
"""From sums to the two ends of an interval."""


class _Share(NamedTuple):
    so: float
    rows: float

    @property
    def value(self) -> float:
        return self.so / self.rows

    def ends(self, z: float) -> Ends:
        return wilson(self.so, self.rows, z)


def spread(sums: Floats) -> Ends:
    """Of the greatest share minus the least."""
    return _greatest([_shares(sums)])


def greater_spread(sums: Floats) -> Ends:
    """Of the greater of two spreads, of which each has one half of the columns."""
    half = sums.shape[1] // 2
    return _greatest([_shares(sums[:, :half]), _shares(sums[:, half:])])


def ratio(sums: Floats) -> Ends:
    """Of the least share by the greatest."""
    shares = _shares(sums)
    if len(shares) < 2 or not any(one.so for one in shares):
        return 0.0, 1.0
    pairs = list(permutations(shares, 2))
    low = min(_by(a, b, Z95)[0] for a, b in pairs)
    return low, min(1.0, *(_by(a, b, _together(len(shares)))[1] for a, b in pairs))


def worst(sums: Floats) -> Ends:
    """Of the least share."""
    from scipy.special import ndtri

    shares = _shares(sums)
    if not shares:
        return 0.0, 1.0
    all_hold = float(ndtri(1 - 0.025 / len(shares)))
    return min(one.ends(Z95)[0] for one in shares), min(one.ends(all_hold)[1] for one in shares)


def _greatest(families: Sequence[Sequence[_Share]]) -> Ends:
    pairs = [pair for shares in families for pair in permutations(shares, 2)]
    if not pairs:
        return 0.0, 1.0
    all_hold = _together(max(map(len, families)), len(families))
    low = max(_less(a, b, all_hold)[0] for a, b in pairs)
    return max(0.0, low), max(_less(a, b, Z95)[1] for a, b in pairs)


def _shares(sums: Floats) -> list[_Share]:
    """The groups that have rows."""
    return [_Share(float(so), float(rows)) for so, rows in _pairs(sums) if rows > 0]


def _pairs(sums: Floats) -> Iterator[tuple[float, float]]:
    return zip(sums[0, 0::2], sums[0, 1::2], strict=True)


def _together(groups: int, families: int = 1) -> float:
    """How many standard errors hold the lower ends of all pairs at once with a chance of 97.5 %."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - 0.025 / families, max(groups, 2), 1e6)) / math.sqrt(2)


def _less(a: _Share, b: _Share, z: float) -> Ends:
    """The interval of one share minus another."""
    (low_a, high_a), (low_b, high_b) = a.ends(z), b.ends(z)
    gap = a.value - b.value
    return gap - math.hypot(a.value - low_a, high_b - b.value), gap + math.hypot(high_a - a.value, b.value - low_b)


def _by(a: _Share, b: _Share, z: float) -> Ends:
    """The interval of one share by another."""
    (low_a, high_a), (low_b, high_b) = a.ends(z), b.ends(z)
    middle = a.value * b.value
    below, above = high_b * (2 * b.value - high_b), low_b * (2 * b.value - low_b)
    low = middle - math.sqrt(max(0.0, middle**2 - low_a * (2 * a.value - low_a) * below))
    high = middle + math.sqrt(max(0.0, middle**2 - high_a * (2 * a.value - high_a) * above))
    return (low / below if below > 0 else 0.0), (high / above if above > 0 else math.inf)
