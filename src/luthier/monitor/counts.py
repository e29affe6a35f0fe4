"""Numbers of signals from counts, so that sums over several middles tell what the rows of all of them would.

A share comes exactly. Means and quantiles come from bins that are about 5 % wide. Intervals are those of the signals
themselves where counts allow it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from luthier.metrics.counts import CountGroup, find_bin
from luthier.metrics.intervals import Z95, wilson_interval
from luthier.monitor.signal import SignalValue

ONE, ZERO = "yes", "no"
FINEST_S, COARSEST_S = 0.001, 3600.0
"""Seconds below and above which no bin is finer."""
_RATIO = 1.05


def list_second_bins() -> tuple[float, ...]:
    """The lower ends of bins of seconds, each 5 % wider than the one before."""
    count = math.ceil(math.log(COARSEST_S / FINEST_S) / math.log(_RATIO))
    return (0.0, *(round(FINEST_S * _RATIO**number, 6) for number in range(count + 1)))


def build_share_group(name: str) -> CountGroup:
    """Events that are something, and those that are not."""
    return CountGroup(name, (ONE, ZERO))


def build_bin_group(name: str, ends: Sequence[float]) -> CountGroup:
    """Events by their value."""
    return CountGroup(name, tuple(f"{end:g}" for end in ends), ordered=True)


def count_share(values: Iterable[float]) -> dict[str, int]:
    """Count the values that are 1, and those that are 0."""
    found = Counter(ONE if value else ZERO for value in values)
    return {ONE: found[ONE], ZERO: found[ZERO]}


def count_in_bins(values: Iterable[float], ends: Sequence[float]) -> dict[str, int]:
    """Count the values in each bin."""
    return dict(Counter(f"{ends[find_bin(value, ends)]:g}" for value in values))


def measure_share(counts: Mapping[str, int]) -> SignalValue | None:
    """The share of ones (Wilson's interval); None of nothing."""
    total = counts[ONE] + counts[ZERO]
    return SignalValue(counts[ONE] / total, *wilson_interval(counts[ONE], total), total) if total else None


def measure_mean(counts: Mapping[str, int], ends: Sequence[float], *, exact: bool = False) -> SignalValue | None:
    """The mean of binned values with a normal interval: of the middles of the bins, or of their ends where those are
    the values themselves."""
    cells = [counts[f"{end:g}"] for end in ends]
    total = sum(cells)
    if not total:
        return None
    above = [*ends[1:], ends[-1]]
    values = [end if exact or upper - end <= 1 else (end + upper) / 2 for end, upper in zip(ends, above, strict=True)]
    mean = sum(count * value for count, value in zip(cells, values, strict=True)) / total
    spread = sum(count * (value - mean) ** 2 for count, value in zip(cells, values, strict=True)) / max(1, total - 1)
    half = Z95 * math.sqrt(spread / total)
    return SignalValue(mean, mean - half, mean + half, total)


def measure_quantile(counts: Mapping[str, int], ends: Sequence[float], part: float) -> SignalValue | None:
    """A quantile of binned values, by the lower end of its bin; the interval by binomial ranks."""
    cells = [counts[f"{end:g}"] for end in ends]
    total = sum(cells)
    if not total:
        return None
    last, spread = total - 1, Z95 * math.sqrt(part * (1 - part) * total)
    ranks = (part * last, math.floor(part * last - spread), math.ceil(part * last + spread))
    value, low, high = (_find_value(cells, ends, min(last, max(0, rank))) for rank in ranks)
    return SignalValue(value, low, high, total)


def _find_value(cells: Sequence[int], ends: Sequence[float], rank: float) -> float:
    before = 0
    for count, end in zip(cells, ends, strict=True):
        before += count
        if before > rank:
            return end
    return ends[-1]


def measure_tenths(groups: Sequence[Mapping[str, int]]) -> SignalValue | None:
    """Return the AUC that is farthest from 0.5 among several numbers, each counted by deciles of a reference, and its
    interval (normal, with Bonferroni's correction).
    """
    from scipy.special import ndtri

    found = []
    for cells in groups:
        total = sum(cells.values())
        if total < 2:
            continue
        middles = [(at + 0.5) / len(cells) for at in range(len(cells))]
        mean = sum(count * middle for count, middle in zip(cells.values(), middles, strict=True)) / total
        spread = (
            sum(count * (middle - mean) ** 2 for count, middle in zip(cells.values(), middles, strict=True)) / total
        )
        area = max(mean, 1 - mean)
        half = float(ndtri(1 - 0.025 / len(groups))) * math.sqrt(spread / total)
        found.append(SignalValue(area, max(0.0, area - half), min(1.0, area + half), total))
    return max(found, default=None)
