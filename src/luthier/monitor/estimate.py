"""Numbers of plain rows, each with its 95 % interval: shares, means, quantiles, rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.monitor.signal import Reading, Row, Span

Z95 = 1.959963984540054


def share(rows: Sequence[Row], span: Span) -> Reading:
    """The part of the rows that are 1 (Wilson's interval)."""
    from luthier.metrics.resample import wilson

    right = sum(row.value for row in rows)
    return Reading(right / len(rows), *wilson(right, len(rows)), span.events)


def mean(values: Sequence[float], span: Span) -> Reading:
    """The mean, with Student's interval; of one value, all that there is."""
    from scipy.special import stdtrit

    middle = math.fsum(values) / len(values)
    if len(values) < 2:
        return Reading(middle, middle, middle, span.events)
    variance = math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)
    half = float(stdtrit(len(values) - 1, 0.975)) * math.sqrt(variance / len(values))
    return Reading(middle, middle - half, middle + half, span.events)


def quantile(ordered: Sequence[float], part: float, span: Span) -> Reading:
    """A quantile of sorted values, as numpy's default; its interval lies between two of them (binomial ranks)."""
    last = len(ordered) - 1
    spread = Z95 * math.sqrt(part * (1 - part) * len(ordered))
    low, high = (
        min(last, max(0, place)) for place in (math.floor(part * last - spread), math.ceil(part * last + spread))
    )
    return Reading(_between(ordered, part * last), ordered[low], ordered[high], span.events)


def _between(ordered: Sequence[float], place: float) -> float:
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def rate(span: Span) -> Reading:
    """Events in a second, with the interval of a Poisson count (Garwood 1936)."""
    from scipy.special import chdtri

    count, seconds = span.events, max(span.seconds, 1.0)
    low = 0.0 if count == 0 else float(chdtri(2 * count, 0.975)) / 2
    high = float(chdtri(2 * count + 2, 0.025)) / 2
    return Reading(count / seconds, low / seconds, high / seconds, count)
