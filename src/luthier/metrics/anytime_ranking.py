"""Rank models by preferences with anytime-valid bounds, and choose the pair to ask about next.

For each pair of models, a bettor plays against every mean that the first one's score could have: a wealth above 1/a
rejects that mean (Waudby-Smith and Ramdas 2024, J. R. Stat. Soc. B 86, section 4). The bets are a fixed mixture, so
that one score costs the same work whether it is the first or the ten-thousandth. By Ville's inequality the bounds of a
pair hold at all looks together, however the next pair is chosen, and the pairs share the chance of an error
(Bonferroni). Nothing is assumed of strengths; only the order of two models that were never decided directly follows
from those between them, as it does under Bradley and Terry's model.

A row counts once in a pair, since judgments of one row hang together: at its first judgment, and, where several people
judge a row, once more in bounds of their own, with the mean of all of them, when the last one is there. Each of the two
has half of the chance of an error, and the narrower of both counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pair = tuple[str, str]

_SHARES = np.array([0.03, 0.06, 0.12, 0.24, 0.42, 0.65, 0.88])[:, None]
"""Which share of the wealth is laid at each score, (bets, 1)."""
_MEANS = np.linspace(0, 1, 201)[1:-1]
"""The means that are tested; one of them is a half."""
_HALF = len(_MEANS) // 2
_FAR = 100_000
"""A forecast above this says nothing."""


@lru_cache(16)
def _bet(score: float) -> Floats:
    """What a score adds to the logarithms of wealth, (2 bets, means)."""
    up = np.log1p(_SHARES * (score / _MEANS - 1))
    return np.concatenate([up, np.log1p(_SHARES * ((1 - score) / (1 - _MEANS) - 1))])


class BettingBounds:
    """Bounds of the mean of scores in [0, 1], ever narrower; with a chance of 1 - alpha they hold at all times."""

    def __init__(self, alpha: float) -> None:
        self._needed = math.log(1 / alpha)
        self._wealth = np.zeros((2 * len(_SHARES), len(_MEANS)))  # logarithms; first of those who bet on a higher mean
        self.low, self.high = 0.0, 1.0
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, score: float) -> None:
        """Take one score."""
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"a score is from 0 to 1, not {score}")
        self._wealth += _bet(score)
        self.count, self.total, self.squares = self.count + 1, self.total + score, self.squares + (score - 0.5) ** 2
        most = self._wealth.max(axis=0)
        wealth = most + np.log(np.exp(self._wealth - most).mean(axis=0))
        possible = _MEANS[(wealth < self._needed) & (self.low < _MEANS) & (self.high > _MEANS)]
        if len(possible):
            step = _MEANS[0]
            self.low = max(self.low, float(possible[0] - step))
            self.high = min(self.high, float(possible[-1] + step))

    def forecast(self, equal_within: float) -> int | None:
        """About how many more scores show that the mean is not a half, or that it is one within a distance; None where
        that is far away."""
        share = (self.total + 1) / (self.count + 2)
        apart = 2 * math.sqrt((share - 0.5) ** 2 + 0.25 / (self.count + 3))  # the mean difference to be expected
        spread = 4 * (self.squares + 0.25) / (self.count + 1)  # 1 for wins and losses, 0 for ties alone
        apart = min(apart, 0.98, max(spread, 1e-9))
        gains = spread * ((1 + apart) / 2 * np.log1p(_SHARES) + (1 - apart) / 2 * np.log1p(-_SHARES))[:, 0]
        behind = self._needed + math.log(2 * len(_SHARES))
        wealth = self._wealth[: len(_SHARES), _HALF] if share >= 0.5 else self._wealth[len(_SHARES) :, _HALF]
        to_differ = min(
            ((behind - has) / gain for has, gain in zip(wealth, gains, strict=True) if gain > 0), default=math.inf
        )
        to_agree = math.inf
        if equal_within:
            width = max(0.0, equal_within - abs(self.total / self.count - 0.5)) if self.count else equal_within
            needed = spread * behind / (2 * width**2) if width else math.inf
            to_agree = needed - self.count
        more = max(1.0, min(to_differ, to_agree))
        return math.ceil(more) if more < _FAR else None


@dataclass(frozen=True, kw_only=True)
class PairStanding:
    """What is known of a pair of models."""

    first: str
    second: str
    rows: int
    share: float | None
    """How often the first is preferred, ties half; None before anything was judged."""
    low: float
    high: float
    """Bounds of that share that hold at every look, for all pairs together."""
    better: str | None
    """Who is better; None where that is not decided, or both are alike."""
    alike: bool
    """Whether both are as good as each other, within the distance that matters."""
    more: int | None
    """About how many more rows would decide it; None when it is decided, or far from it."""

    @property
    def decided(self) -> bool:
        """Whether nothing more needs to be judged."""
        return self.better is not None or self.alike


@dataclass(frozen=True, kw_only=True)
class RankingAdvice:
    """Whether to stop."""

    order: tuple[tuple[str, ...], ...]
    """The models from the best, as far as that is decided; those in one group are not told apart."""
    stop: bool
    """Whether the order of the top is decided."""
    undecided: tuple[PairStanding, ...]
    """The pairs that matter for the top and are not decided, the nearest to a decision first."""

    @property
    def more(self) -> int | None:
        """About how many more rows would decide the top; None where a pair is far from it."""
        each = [pair.more for pair in self.undecided]
        return None if None in each else sum(count or 0 for count in each)


class AnytimeRanking:
    """The order of several models, judged pair by pair; one score costs the same work however many came before."""

    def __init__(
        self, models: Sequence[str], *, judges: int = 1, alpha: float = 0.05, equal_within: float = 0.05
    ) -> None:
        """`judges` is how many people judge each row; shares closer to a half than `equal_within` are alike."""
        self.models = tuple(models)
        self._judges, self._equal_within = judges, equal_within
        pairs = list(combinations(self.models, 2))
        looks = 1 if judges == 1 else 2
        self._bounds = {pair: [BettingBounds(alpha / len(pairs) / looks) for _ in range(looks)] for pair in pairs}
        self._rows: dict[tuple[Pair, str], list[float]] = {}
        self._totals = dict.fromkeys(pairs, 0.0)  # of the rows' mean scores

    def add(self, a: str, b: str, score: float, row: str) -> None:
        """Count that `a` scored so much (1 won, 0 lost) against `b` in a row."""
        pair, mine = ((a, b), score) if (a, b) in self._bounds else ((b, a), 1 - score)
        scores = self._rows.setdefault((pair, row), [])
        before = sum(scores) / len(scores) if scores else 0.0
        scores.append(mine)
        self._totals[pair] += sum(scores) / len(scores) - before
        if len(scores) == 1:
            self._bounds[pair][0].add(mine)
        if len(scores) == self._judges > 1:
            self._bounds[pair][1].add(sum(scores) / len(scores))

    @property
    def rows(self) -> int:
        """How many rows of pairs were judged."""
        return len(self._rows)

    def standings(self) -> dict[Pair, PairStanding]:
        """Each pair, by the names of its models in their order."""
        ends = {
            pair: (max(bound.low for bound in bounds), min(bound.high for bound in bounds))
            for pair, bounds in self._bounds.items()
        }
        beats = {(a, b) if low > 0.5 else (b, a) for (a, b), (low, high) in ends.items() if low > 0.5 or high < 0.5}
        for between in self.models:
            beats |= {(a, b) for a, x in beats if x == between for y, b in beats if y == between and a != b}
        return {pair: self._standing(pair, ends[pair], beats) for pair in self._bounds}

    def _standing(self, pair: Pair, ends: tuple[float, float], beats: Collection[Pair]) -> PairStanding:
        (a, b), (low, high), bounds = pair, ends, self._bounds[pair]
        won, lost = (a, b) in beats, (b, a) in beats
        alike = not (won or lost) and low >= 0.5 - self._equal_within and high <= 0.5 + self._equal_within
        forecasts = [found for bound in bounds if (found := bound.forecast(self._equal_within)) is not None]
        return PairStanding(
            first=a,
            second=b,
            rows=bounds[0].count,
            share=self._totals[pair] / bounds[0].count if bounds[0].count else None,
            low=low,
            high=high,
            better=a if won and not lost else b if lost and not won else None,
            alike=alike,
            more=None if won or lost or alike else min(forecasts, default=None),
        )

    def advise(self, top: int = 3) -> RankingAdvice:
        """Whether the order of the `top` best is decided, and what it still needs."""
        standings = self.standings()
        above = {name: sum(entry.better not in (None, name) and name in pair for pair, entry in standings.items())
                 for name in self.models}  # fmt: skip
        running = {name for name in self.models if above[name] < top}
        undecided = [entry for pair, entry in standings.items() if not entry.decided and running.issuperset(pair)]
        undecided.sort(
            key=lambda pair_standing: (
                pair_standing.more is None,
                pair_standing.more or 0,
                pair_standing.first,
                pair_standing.second,
            )
        )
        below = {name: sum(standing.better == name for standing in standings.values()) for name in self.models}
        groups: dict[tuple[int, int], list[str]] = {}
        for name in sorted(self.models, key=lambda name: (above[name] - below[name], name)):
            groups.setdefault((above[name], below[name]), []).append(name)
        return RankingAdvice(order=tuple(map(tuple, groups.values())), stop=not undecided, undecided=tuple(undecided))


def rank_pairs(models: Sequence[str], wins: Mapping[Pair, float], undecided: Collection[Pair]) -> dict[Pair, float]:
    """How much one more judgment of each pair is expected to tell of the order of the undecided ones, in nats.

    `wins` says how often the first of a pair was preferred to the second, ties half, both ways. Strengths are
    Bradley–Terry's with a standard normal prior, and their uncertainty is the normal one at the likeliest (Laplace); a
    judgment shrinks it, and what that takes from the entropy of each undecided pair's order is added up (an expected
    information gain, as in Chen, Bennett, Collins-Thompson and Horvitz 2013, "Pairwise ranking aggregation in a
    crowdsourced setting").
    """
    index = {name: at for at, name in enumerate(models)}
    won = np.zeros((len(models), len(models)))
    for (a, b), count in wins.items():
        won[index[a], index[b]] += count
    mean, covariance = _likeliest(won)
    pairs = list(combinations(models, 2))
    contrasts = np.zeros((len(pairs), len(models)))
    for at, (a, b) in enumerate(pairs):
        contrasts[at, index[a]], contrasts[at, index[b]] = 1.0, -1.0
    matters = np.array([float(pair in undecided or pair[::-1] in undecided) for pair in pairs])
    gaps, shared = contrasts @ mean, contrasts @ covariance @ contrasts.T
    spread = np.maximum(np.diag(shared), 1e-12)
    chance = 1 / (1 + np.exp(-gaps))
    information = chance * (1 - chance)
    taken = shared**2 * (information / (1 + information * spread))[:, None]  # (asked, told): the variance that goes
    before = _order_entropy(gaps, spread)
    points, weights = np.polynomial.hermite_e.hermegauss(7)
    after = sum(
        weight * _order_entropy(gaps + point * np.sqrt(taken), spread - taken)
        for point, weight in zip(points, weights / weights.sum(), strict=True)
    )
    gains = np.maximum((before - after) @ matters, 0.0)
    return {pair: float(gain) for pair, gain in zip(pairs, gains, strict=True)}


def _likeliest(won: Floats) -> tuple[Floats, Floats]:
    """The likeliest strengths under a standard normal prior, (models,), and their covariance."""
    met, mean = won + won.T, np.zeros(len(won))
    for _ in range(50):
        chance = 1 / (1 + np.exp(mean[None, :] - mean[:, None]))
        weight = met * chance * (1 - chance)
        precision = np.diag(weight.sum(axis=1) + 1.0) - weight
        step = np.linalg.solve(precision, (won - met * chance).sum(axis=1) - mean)
        mean = mean + np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-9:
            break
    return mean, np.asarray(np.linalg.inv(precision))


def _order_entropy(gap: Floats, variance: Floats) -> Floats:
    """The entropy of which of two is the stronger, whose gap is normal, in nats."""
    # the normal distribution by the logistic one (Bowling et al. 2009), within 0.0002: SciPy is slow to load
    z = np.clip(gap / np.sqrt(np.maximum(variance, 1e-12)), -8.0, 8.0)
    chance = np.clip(1 / (1 + np.exp(-(1.5976 * z + 0.07056 * z**3))), 1e-12, 1 - 1e-12)
    return np.asarray(-(chance * np.log(chance) + (1 - chance) * np.log1p(-chance)))


def order_items(
    items: Mapping[str, tuple[Pair, str]], gains: Mapping[Pair, float], row_judgments: Mapping[str, int]
) -> dict[str, float]:
    """A priority for each item, which is a pair of models in a row: drawn in proportion to what its pair is expected to
    tell, and lower for rows that were asked about more often.

    The draw is by a hash of the item's name (Efraimidis and Spirakis 2006): the same items come in the same order.
    """
    from luthier.core.hashing import digest_of

    priorities = {}
    for item, (pair, row) in items.items():
        gain = gains.get(pair, gains.get(pair[::-1], 0.0))
        chance = (int(digest_of(["order", item])[:12], 16) + 0.5) / 16**12
        priorities[item] = math.log(gain + 1e-9) - math.log(-math.log(chance)) - row_judgments.get(row, 0)
    return priorities
