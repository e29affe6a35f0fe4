"""Rungs: at which shares of the whole training trials are measured, and which trials go on.

A trial goes on while it is in the better half of its rung and not clearly worse than the rung's best: its paired
difference on the same validation rows has a 95 % interval that does not lie below zero. The interval is Bonett and
Price's where rows are right or wrong, and Student's on the differences where they have graded scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.metrics.paired import bonett_price_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float64]

PROMOTED = 2
"""Of so many trials of a rung, one goes on to the next, while shares grow by three. On a table of real trainings half
did no worse than a third (`benchmarks/results/auto.txt`), and fewer trials that learn slowly are lost."""
RUNG_SETS = ((1 / 9, 1 / 3, 1.0), (1 / 9, 1 / 3), (1 / 9,))
"""Shares of the whole training, from ample budgets to small ones."""
ROUND_TRIALS = 6
"""New trials of a round: three of them reach the second rung, and one the last."""
LEAST_TRIALS = 3
"""New trials of a round that is cut short."""
_UPPER = 3
"""One of this many values belongs to the upper tail."""
_MIN_ROWS = 2


def compute_round_work(shares: Sequence[float], count: int, work: Sequence[float]) -> float:
    """Work of a round of `count` trials, where a trial of each share takes `work`, continued from the share before."""
    total, before = 0.0, 0.0
    for rung in range(len(shares)):
        total += max(1, count // PROMOTED**rung) * (work[rung] - before)
        before = work[rung]
    return total


def is_clearly_worse(rows: Rows | None, best: Rows | None) -> bool:
    """Return whether a trial's rows are below the best one's with 95 % confidence; False where rows are unknown."""
    import numpy as np

    if rows is None or best is None or len(rows) != len(best):
        return False
    difference = np.asarray(rows, dtype=np.float64) - np.asarray(best, dtype=np.float64)
    difference = difference[np.isfinite(difference)]
    if len(difference) < _MIN_ROWS:
        return False
    if bool(np.isin(difference, (-1.0, 0.0, 1.0)).all()):
        fixed, broken = int((difference > 0).sum()), int((difference < 0).sum())
        return bonett_price_interval(fixed, broken, len(difference)).high < 0
    return _student_upper_bound(difference) < 0


def _student_upper_bound(difference: Rows) -> float:
    from scipy.stats import t

    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return float(difference.mean()) + float(t.ppf(0.975, len(difference) - 1)) * error


def estimate_gain(values: Sequence[float], further: int) -> float:
    """Expected improvement of the best of `values` by so many further trials that are drawn like them.

    The spacings of the upper third are taken for those of an exponential tail: by Rényi's representation the i-th
    largest exceeds the next by sigma / i on average, and the best of n + m exceeds the best of n by
    sigma (1/(n+1) + ... + 1/(n+m)).
    """
    ordered = sorted(values, reverse=True)
    upper = math.ceil(len(ordered) / _UPPER)
    if upper >= len(ordered):
        return math.inf
    scale = sum(index * (ordered[index - 1] - ordered[index]) for index in range(1, upper + 1)) / upper
    return scale * sum(1 / (len(ordered) + index) for index in range(1, further + 1))
