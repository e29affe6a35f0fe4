"""Compare two models on live traffic, and confidence sequences that stay valid at every look.

The two models of a canary answer different users, so rows are not paired. Shares are compared by Newcombe's hybrid
score interval and Fisher's exact test, other means by Welch's interval and t-test. Where users return, the means of
users are compared, since requests of one user are not independent. A shadow answers the same requests: use
`compare_paired_requests`.

Newcombe 1998, Stat. Med. 17 (method 10); Welch 1947; Fisher 1922.

A plain 95 % interval is valid at one sample size that is fixed in advance. Stopping as soon as it excludes zero is
wrong far more often than 5 % of the time. A confidence sequence for the mean of values in [0, 1] is valid at all sample
sizes at once, so early stopping is allowed.

Waudby-Smith & Ramdas 2024, J. R. Stat. Soc. B 86: the predictable plug-in empirical Bernstein sequence (theorem 2).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Observation(NamedTuple):
    """One measured value, and of whom; nobody is the same as nobody else."""

    value: float
    who: str | None = None


@dataclass(frozen=True, kw_only=True)
class MeanDifference:
    """The mean of the first arm minus that of the second."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    """The ends of the 95 % interval."""
    p: float
    """Two-sided."""
    test: str
    rows: tuple[int, int]
    people: tuple[int, int]
    """How many were independent of each other."""

    def as_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {**vars(self), "rows": list(self.rows), "people": list(self.people)}


def compare_unpaired(first: Sequence[Observation], second: Sequence[Observation]) -> MeanDifference | None:
    """Compare the means of two independent samples; None when one of them has no values."""
    a, b = _people(first), _people(second)
    if not a or not b:
        return None
    alone = len(a) == len(first) and len(b) == len(second)
    if {*a, *b} <= {0.0, 1.0}:
        low, high, p, test = *newcombe_interval(sum(a), len(a), sum(b), len(b)), *_fisher(a, b)
    elif min(len(a), len(b)) > 1 and len({*a}) == len({*b}) == 1 and a[0] != b[0]:
        low, high, p, test = _all_apart(a, b)
    else:
        low, high, p = _welch(a, b)
        test = "Welch"
    test += "" if alone else ", over people"
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    return MeanDifference(
        first=mean_a,
        second=mean_b,
        difference=mean_a - mean_b,
        low=low,
        high=high,
        p=p,
        test=test,
        rows=(len(first), len(second)),
        people=(len(a), len(b)),
    )


def _people(observations: Sequence[Observation]) -> list[float]:
    """One mean for each person; whoever is not known stands alone."""
    by_person: dict[str | int, list[float]] = defaultdict(list)
    for index, observation in enumerate(observations):
        by_person[index if observation.who is None else observation.who].append(observation.value)
    return [sum(values) / len(values) for values in by_person.values()]


def newcombe_interval(right_a: float, rows_a: int, right_b: float, rows_b: int) -> tuple[float, float]:
    """The 95 % interval of a difference of two independent shares, from Wilson's of each."""
    from luthier.metrics.intervals import wilson_interval

    a, b = right_a / rows_a, right_b / rows_b
    (low_a, high_a), (low_b, high_b) = wilson_interval(right_a, rows_a), wilson_interval(right_b, rows_b)
    difference = a - b
    low = difference - math.sqrt((a - low_a) ** 2 + (high_b - b) ** 2)
    high = difference + math.sqrt((high_a - a) ** 2 + (b - low_b) ** 2)
    return max(-1.0, low), min(1.0, high)


def _fisher(a: Sequence[float], b: Sequence[float]) -> tuple[float, str]:
    from scipy.stats import fisher_exact

    table = [[sum(a), len(a) - sum(a)], [sum(b), len(b) - sum(b)]]
    return float(fisher_exact(table)[1]), "Fisher, exact"


def _all_apart(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float, str]:
    """Interval and test where each arm has one value only: as if those two were right and wrong, since a spread that
    few did not show is not nought."""
    ends = [(a[0] - b[0]) * end for end in newcombe_interval(len(a), len(a), 0, len(b))]
    return min(ends), max(ends), *_fisher([1.0] * len(a), [0.0] * len(b))


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Interval and p; with fewer than two people in an arm nothing is known of chance."""
    from scipy.stats import ttest_ind

    if min(len(a), len(b)) < 2:
        return -math.inf, math.inf, 1.0
    if len({*a, *b}) == 1:
        return 0.0, 0.0, 1.0
    found = ttest_ind(a, b, equal_var=False)
    ends = found.confidence_interval(0.95)
    return float(ends.low), float(ends.high), float(found.pvalue)


def compare_paired_requests(first: Sequence[float], second: Sequence[float]) -> MeanDifference:
    """Compare two models on the very same requests.

    Shares by Bonett and Price's interval and McNemar's test, other means by the t interval and test of the differences.
    """
    from luthier.metrics.paired import bonett_price_interval, mcnemar

    rows = len(first)
    gains = [a - b for a, b in zip(first, second, strict=True)]
    if {*first, *second} <= {0.0, 1.0}:
        fixed, broken = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        interval = bonett_price_interval(fixed, broken, rows)
        low, high, p, test = interval.low, interval.high, mcnemar(fixed, broken), "McNemar, mid-p"
    elif rows > 1 and len({*gains}) == 1 and gains[0]:  # as if each gain were one row set right
        interval = bonett_price_interval(rows, 0, rows)
        low, high = sorted((gains[0] * interval.low, gains[0] * interval.high))
        p, test = mcnemar(rows, 0), "McNemar, mid-p"
    else:
        low, high, p = _t(gains)
        test = "t, paired"
    mean_a, mean_b = sum(first) / rows, sum(second) / rows
    return MeanDifference(
        first=mean_a,
        second=mean_b,
        difference=mean_a - mean_b,
        low=low,
        high=high,
        p=p,
        test=test,
        rows=(rows, rows),
        people=(rows, rows),
    )


def _t(gains: Sequence[float]) -> tuple[float, float, float]:
    from scipy.stats import ttest_1samp

    if len(gains) < 2:
        return -math.inf, math.inf, 1.0
    if not any(gains):
        return 0.0, 0.0, 1.0
    found = ttest_1samp(gains, 0.0)
    ends = found.confidence_interval(0.95)
    return float(ends.low), float(ends.high), float(found.pvalue)


_MOST = 0.5
"""The largest bet that is made."""


class MeanBounds(NamedTuple):
    """A confidence interval of the mean after a number of values."""

    mean: float
    low: float
    high: float
    values: int


def confidence_sequence(values: Iterable[float], *, alpha: float = 0.05) -> list[MeanBounds]:
    """The bounds after each value, ever narrower; values lie in [0, 1] and come in the order of time.

    With a chance of 1 - alpha, the true mean lies in all of them.
    """
    logs = math.log(2 / alpha)
    total, squares = 0.5, 0.25
    before, variance = 0.5, 0.25
    bet_sum = bet_values = penalty = plain = 0.0
    low, high = 0.0, 1.0
    found = []
    for number, value in enumerate(values, 1):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"value {number} is {value}; a confidence sequence here is for values from 0 to 1")
        bet = min(math.sqrt(2 * logs / (variance * number * math.log(1 + number))), _MOST)
        bet_sum, bet_values = bet_sum + bet, bet_values + bet * value
        penalty += 4 * (value - before) ** 2 * (-math.log(1 - bet) - bet) / 4
        centre, half = bet_values / bet_sum, (logs + penalty) / bet_sum
        low, high = max(low, centre - half), min(high, centre + half)
        plain += value
        total += value
        before = total / (number + 1)
        squares += (value - before) ** 2
        variance = squares / (number + 1)
        found.append(MeanBounds(plain / number, low, high, number))
    return found
