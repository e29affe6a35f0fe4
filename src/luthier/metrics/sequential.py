"""Intervals that hold however often one looks: a confidence sequence for the mean of values in [0, 1].

A plain 95 % interval holds at one number of rows that was fixed beforehand. Who looks after every judgment, and stops
when the interval is clear, is wrong far more often than one time in twenty. A confidence sequence holds at all times
at once, so that stopping early is fair.

Waudby-Smith & Ramdas 2024, J. R. Stat. Soc. B 86: the predictable plug-in empirical Bernstein sequence (theorem 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

_MOST = 0.5
"""The largest bet that is made."""


class Bounds(NamedTuple):
    """Where the mean lies, after so many values."""

    mean: float
    low: float
    high: float
    values: int


def confidence_sequence(values: Iterable[float], *, alpha: float = 0.05) -> list[Bounds]:
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
        found.append(Bounds(plain / number, low, high, number))
    return found
