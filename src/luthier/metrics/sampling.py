"""Shares estimated from items that were drawn with known, unequal chances, as surveys do it.

Each item is drawn with a chance of its own (`probability`), and of those that were drawn some are answered. Within a
group, items are assumed to be answered at random: the answered ones stand for all of the group that were drawn. An item
then counts `1 / (probability × answered share of its group)` times (Horvitz and Thompson 1952; Hájek 1971 for the
ratio; response homogeneity groups: Särndal, Swensson and Wretman 1992, section 15.6).

The interval speaks of the process that makes items, not only of those that came. Its variance is that of the ratio's
linearization: for Poisson sampling `Σ ((value - share) / probability)²` over all that were drawn, and for the answers
`n² (1/m - 1/n)` times the variance within each group, of which m of n are answered. The items of one cluster (a user)
are added up first. The interval is Wilson's, at the number of independent items that would have this variance, as Korn
and Graubard (1998) do it for Clopper and Pearson's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from luthier.metrics.intervals import wilson_interval

Z95 = 1.959963984540054
_MOST_GAIN = 2.0
"""Groups whose few answers are all the same seem to have no variance: no design is trusted to gain more than this."""


class SampledItem(NamedTuple):
    """One item that was drawn."""

    probability: float
    """The chance with which it was drawn, above 0."""
    value: float | None
    """1 or 0 (or a part); None while nobody answered it."""
    group: str = ""
    """Items of one group are answered at random."""
    cluster: str = ""
    """Items of one cluster are alike; an item without one is its own."""


class ShareEstimate(NamedTuple):
    """A share of all items with its 95 % interval."""

    value: float
    low: float
    high: float
    answered: int
    drawn: int
    size: float
    """How many items there are, drawn or not, as the chances say."""
    effective: float
    """The number of items, drawn evenly, that would say as much."""
    unseen: float
    """The part of all items whose groups nobody answered anything of: the share says nothing of them."""


def estimate_weighted_share(items: Iterable[SampledItem]) -> ShareEstimate | None:
    """Estimate the mean value of all items from those that were drawn; None while none is answered."""
    every = list(items)
    counts = Counter(item.group for item in every)
    answered = Counter(item.group for item in every if item.value is not None)
    if not answered:
        return None
    size = math.fsum(1 / item.probability for item in every)
    unseen = math.fsum(1 / item.probability for item in every if item.group not in answered)
    known = [(item, counts[item.group] / answered[item.group] / item.probability) for item in every if _is_known(item)]
    total = math.fsum(weight for _, weight in known)
    share = min(1.0, max(0.0, math.fsum(weight * (item.value or 0.0) for item, weight in known) / total))
    effective, count = _effective(known, share, counts, answered)
    low, high = wilson_interval(share * effective, effective, _student_quantile(max(1.0, count - 1.0)))
    return ShareEstimate(share, low, high, len(known), len(every), size, effective, unseen / size)


def _is_known(item: SampledItem) -> bool:
    return item.value is not None


def _effective(
    known: Sequence[tuple[SampledItem, float]], share: float, drawn: Counter[str], answered: Counter[str]
) -> tuple[float, int]:
    """How many independent items would say as much, and how many clusters there are."""
    residuals = [weight * ((item.value or 0.0) - share) for item, weight in known]
    means = defaultdict[str, float](float)
    for (item, _), residual in zip(known, residuals, strict=True):
        means[item.group] += residual / answered[item.group]
    sums, masses = dict[str, float](), dict[str, float]()
    for index, ((item, weight), residual) in enumerate(zip(known, residuals, strict=True)):
        m, mean = answered[item.group], means[item.group]
        if m > 1:  # what the items of a group have in common varies as those that were drawn do, and not with answers
            part = math.sqrt(m / drawn[item.group]) * mean + math.sqrt(m / (m - 1)) * (residual - mean)
        else:
            part = residual
        cluster = item.cluster or f"\0{index}"
        sums[cluster] = sums.get(cluster, 0.0) + part
        masses[cluster] = masses.get(cluster, 0.0) + weight
    total, count = math.fsum(masses.values()), len(masses)
    variance = math.fsum(entry**2 for entry in sums.values()) / total**2
    spread = share * (1 - share)
    if variance > 0 and spread > 0:
        return min(_MOST_GAIN * len(known), spread / variance), count
    return total**2 / math.fsum(mass**2 for mass in masses.values()), count


def _student_quantile(free: float) -> float:
    """The 97.5 % quantile of Student's t (Hill 1970, two terms more than Cornish and Fisher's first; 1 % off at 3)."""
    if free < 3:
        return 12.7062 if free < 2 else 4.3027
    z, z2 = Z95, Z95**2
    terms = (
        (z2 + 1) / 4,
        (5 * z2**2 + 16 * z2 + 3) / 96,
        (3 * z2**3 + 19 * z2**2 + 17 * z2 - 15) / 384,
        (79 * z2**4 + 776 * z2**3 + 1482 * z2**2 - 1920 * z2 - 945) / 92160,
    )
    return z + sum(z * term / free ** (power + 1) for power, term in enumerate(terms))
