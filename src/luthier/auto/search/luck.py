"""How much of the best validation score is luck: the best of many trials is chosen by the rows that it is measured on.

Before a search, the number of trials and rows alone say what is to be expected: equal trials differ on so many rows by
chance, and the greatest of so many chance values lies that far above their mean. After it, the rows themselves say it:
the best trial is chosen on one half of them and measured on the other, many times over; what it loses there, divided
by the root of two, since half the rows leave so much more to chance, is the luck of the choice on all of them.

Five hundred trials on thirty validation rows: text, and not believed.

Cawley and Talbot 2010, J. Mach. Learn. Res. 11; Tsamardinos, Greasidou and Borboudakis 2018, Mach. Learn. 107 (the bias
of the best of many configurations).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from luthier.artifacts.search import SelectionLuck
from luthier.core.errors import DataError
from luthier.core.events import format_counted_noun
from luthier.eval.report import formatting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.auto.search.scores import Key, ScoreTable

SPLITS = 200
Z90 = 1.6448536269514722
"""The standard normal quantile of a one-sided test at the 5 % level."""
WORST_DEVIATION = 0.5
"""The standard deviation of rows that are right as often as wrong: no share varies more."""


def compute_expected_luck(trials: int, rows: int, deviation: float = WORST_DEVIATION) -> float:
    """Return how far the best of equal trials is above their mean by chance alone.

    `deviation` is the standard deviation over the rows of a trial's score relative to the others.
    """
    if trials < 1 or rows < 1:
        raise DataError(f"{trials} trials on {rows} rows have no luck to tell")
    return deviation / math.sqrt(rows) * compute_expected_maximum(trials)


def compute_expected_maximum(count: int) -> float:
    """Return the expected maximum of `count` independent standard normal values: 0, 0.564, 0.846, …"""
    import numpy as np
    from scipy.special import ndtr

    at = np.linspace(-10.0, 10.0, 4001)
    density = count * np.exp(-(at**2) / 2) / math.sqrt(2 * math.pi) * ndtr(at) ** (count - 1)
    return float(np.trapezoid(at * density, at))


def measure_luck(table: ScoreTable, *, trials: int, seed: int = 0) -> SelectionLuck:
    """How much of what the best of a rung's trials gains over `of` is luck; the seed draws the halves of the rows.

    `table` holds the trials of one rung on the validation rows, `of` as trial 0; `trials` is how many were looked at in
    all: luck grows with those that are not in the table, too.
    """
    import numpy as np

    keys, rows = table.trials, table.rows
    if 0 not in keys:
        raise DataError("the settings that the search began with (trial 0) are not among the trials of the rung")
    gains = [table.gain(key, 0) for key in keys]
    best = int(np.argmax(gains))
    covariance = table.covariance([keys[best], 0])
    error = math.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    more = compute_expected_maximum(trials) / compute_expected_maximum(len(keys)) if 1 < len(keys) < trials else 1.0
    expected = more * _luck_of_halves(table, keys, seed) if len(keys) > 1 and rows > 1 else 0.0
    believed = rows > 1 and gains[best] - expected > Z90 * error and gains[best] > 0
    return SelectionLuck(
        trials=trials,
        rows=rows,
        expected=expected,
        observed=gains[best],
        believed=believed,
        sentence=_summarize(table.metric, trials, rows, expected, gains[best], believed=believed),
    )


def _luck_of_halves(table: ScoreTable, keys: Sequence[Key], seed: int) -> float:
    """Return the loss of one half's best trial on the other half, scaled to all rows."""
    import numpy as np

    random = np.random.default_rng([seed, 2])
    lots = random.random((SPLITS, table.rows))
    first = (np.argsort(np.argsort(lots, axis=1), axis=1) < table.rows // 2).astype(np.float64)
    sign = -1.0 if table.lower_is_better else 1.0
    one, other = (sign * table.values_of_resamples(keys, weights) for weights in (first, 1 - first))
    at = np.arange(SPLITS)
    lost = [(here - there)[at, np.argmax(here, axis=1)] for here, there in ((one, other), (other, one))]
    return max(0.0, float(np.concatenate(lost).mean())) / math.sqrt(2)


def _summarize(metric: str, trials: int, rows: int, expected: float, observed: float, *, believed: bool) -> str:
    decimals = formatting.count_decimals(metric)
    gains, luck = formatting.format_number(observed, decimals), formatting.format_number(expected, decimals)
    looked = f"{format_counted_noun(trials, 'trial')} on {format_counted_noun(rows, 'validation row')}"
    text = (
        f"The best of {looked} gains {gains} in {formatting.get_metric_title(metric)}; {luck} is expected by luck alone"
    )
    return f"{text}." if believed else f"{text}: the gain is not to be believed before the test rows confirm it."
