"""A conformal test martingale: evidence of a change in a stream, with bounded false alarms at any time.

Each new point gets scores, and each score a conformal p-value: its rank among the reference and all that came since.
While nothing changes, these p-values are independent and uniform, whatever the distribution and however few the
reference's points (Vovk, Nouretdinov and Gammerman 2003, "Testing exchangeability on-line"). A bettor who wins when
they are not, the simple jumper (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman 2021, "Retrain or not
retrain", section 3), starts anew at every point with the same small stake, so that a late change is found as soon as an
early one: the stakes' sum is the Shiryaev-Roberts statistic of the same paper, and, with the stakes not laid out yet, a
martingale (Shin, Ramdas and Rinaldo 2022, "E-detectors"). By Ville's inequality it passes 1/a within a round with a
chance of at most a; of several scores the loudest speaks, and pays for their number (Bonferroni).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BETS = (-1.8, -1.0, 0.0, 1.0, 1.8)
"""A bet of b multiplies a stake by 1 + b (p - 1/2); the paper's jumper has -1, 0 and 1."""
JUMP = 0.01
"""The share of each stake that is spread over all bets at every point, as in the paper."""
MOST = 1e6
"""Evidence is counted no further, so that it is gone soon after a change is undone."""
KEPT = 500
"""Stakes are forgotten after so many points at least, and twice as many at most: what is undone must fade. To forget a
stake is to lose it, so that false alarms only become rarer; a change that is too small to show within so many points is
not found."""


class ConformalMartingale:
    """Evidence, point by point, that a stream is not drawn as the reference was.

    `reference` is (rows, scores): points that the scores were not made from. After `points` points a new round begins
    with the reference alone. In a round without a change, the evidence ever passes 1/a with a chance of at most a.
    """

    def __init__(self, reference: NDArray[np.float64], *, points: int) -> None:
        self._reference = [sorted(column) for column in reference.T.tolist()]
        self._points = points
        self._bets = np.array(BETS)
        self._begin()

    def _begin(self) -> None:
        self._bags = [list(column) for column in self._reference]
        self._stakes = np.zeros((2, len(self._bags), len(BETS)))  # those begun lately, and those before
        self.points_seen = 0
        """Points of this round."""

    def add(self, scores: Sequence[float], lots: Sequence[float]) -> None:
        """Take one point: its scores, and for each a number drawn evenly from [0, 1), which decides ties."""
        if self.points_seen == self._points:
            self._begin()
        ranks = [self._rank(bag, score, lot) for bag, score, lot in zip(self._bags, scores, lots, strict=True)]
        if self.points_seen % KEPT == 0:
            self._stakes = np.stack([np.zeros_like(self._stakes[0]), self._stakes[0]])
        self.points_seen += 1
        together = self._stakes.sum(axis=2, keepdims=True)
        stakes = (1 - JUMP) * self._stakes + JUMP * together / len(BETS)
        stakes[0] += 1 / len(BETS)
        stakes *= 1 + self._bets * (np.array(ranks)[:, None] - 0.5)
        total = stakes.sum(axis=(0, 2), keepdims=True)
        most = MOST * self._points * len(self._bags)
        self._stakes = np.where(total > most, stakes * (most / np.maximum(total, most)), stakes)

    @staticmethod
    def _rank(bag: list[float], score: float, lot: float) -> float:
        """The share of the bag, the point itself included, that is above the score; ties by lot."""
        above, equal = len(bag) - bisect_right(bag, score), bisect_right(bag, score) - bisect_left(bag, score)
        insort(bag, score)
        return (above + lot * (equal + 1)) / len(bag)

    @property
    def each(self) -> NDArray[np.float64]:
        """(scores,): the evidence of each score alone, 1 at the beginning."""
        found: NDArray[np.float64] = self._stakes.sum(axis=(0, 2)) / self._points + (
            1 - self.points_seen / self._points
        )
        return found

    @property
    def evidence(self) -> float:
        """The evidence of all scores together: the loudest, divided by their number."""
        return float(self.each.max()) / len(self._bags)

    @property
    def digits(self) -> float:
        """The evidence as a power of ten: 2 is a hundred to one."""
        return math.log10(max(self.evidence, 1e-12))
