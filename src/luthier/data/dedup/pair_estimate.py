"""Estimate from a sample of rows how many pairs a search for near copies compares in all rows.

Two numbers of the sample decide: how often two rows are alike enough to be compared, and how often two such rows are
twins. A row is compared with earlier rows until a twin is found, so that many close copies cost one comparison a row,
and many rows that are almost twins cost one with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.core.events import take_evenly_spaced

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_ROWS = 1024
"""Rows of a sample that are looked at: half a million pairs."""
VERIFIED_PAIRS = 2048
"""Of the pairs that are alike in the sample, as many are compared."""
_STRETCHES = 256
"""The rows are gone through in so many stretches of equal length."""


class PairRates(NamedTuple):
    """Of two rows drawn by chance."""

    alike: float
    """The chance that they are compared."""
    twins: float
    """The chance that they are twins when they are compared."""

    def count_alike(self, rows: int) -> float:
        """The pairs of so many rows that are alike, compared or not."""
        return self.alike * rows * (rows - 1) / 2

    def count_pairs(self, rows: int, *, drop: bool) -> float:
        """The pairs of so many rows that are compared, each row with those before it until one is its twin; with
        `drop`, rows that have a twin are not compared with later ones.

        The expected number for a row with c rows before it that are alike is (1 - (1 - t)^c) / t, t being the chance of
        twins, and c where it is 0; and one more for the pair that is compared ahead of its turn.
        """
        length = rows / _STRETCHES
        before = compared = 0.0
        for stretch in range(_STRETCHES):
            alike = self.alike * (before + length / 2)
            alone = (1 - self.twins) ** alike
            ahead = min(1.0, self.alike * (stretch + 0.5) * length)
            compared += length * (ahead + ((1 - alone) / self.twins if self.twins else alike))
            before += length * (alone if drop else 1)
        return compared


def measure_pair_rates(
    signatures: NDArray[np.uint8], at_least: int, are_twins: Callable[[Sequence[tuple[int, int]]], Sequence[bool]]
) -> PairRates:
    """Compare the signatures (rows, permutations) of a sample pair by pair; `are_twins` answers for some of the pairs
    with so many equal columns or more. Both numbers of work are bounded by `SAMPLE_ROWS` and `VERIFIED_PAIRS`."""
    count = len(signatures)
    assert count <= SAMPLE_ROWS, "a sample is small"
    found = [
        (row, row + 1 + int(other))
        for row in range(count - 1)
        for other in np.flatnonzero((signatures[row + 1 :] == signatures[row]).sum(axis=1) >= at_least)
    ]
    if not found:
        return PairRates(0.0, 0.0)
    verdicts = are_twins(take_evenly_spaced(found, VERIFIED_PAIRS))
    return PairRates(len(found) / (count * (count - 1) / 2), sum(verdicts) / len(verdicts))
