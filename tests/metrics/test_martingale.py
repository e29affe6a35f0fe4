"""Evidence against a stream that is like its reference is rare, at any time; a change is found, early or late."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from luthier.metrics.martingale import BETS, JUMP, ConformalMartingale


def fed(
    seed: int, *, reference: int = 60, points: int = 200, shift: float = 0.0, at: int = 0, scores: int = 3
) -> list[float]:
    """The evidence after each point of one round."""
    random = np.random.default_rng(seed)
    made = ConformalMartingale(_scores(random, reference, scores), points=points)
    found = []
    for number in range(points):
        row = _scores(random, 1, scores)[0] + (shift if number >= at else 0.0)
        made.add(row.tolist(), random.random(scores).tolist())
        found.append(made.evidence)
    return found


def _scores(random: np.random.Generator, rows: int, scores: int) -> np.ndarray:
    """Scores that hang together, with ties, of a distribution with long tails."""
    common = random.standard_t(2, size=(rows, 1))
    return np.round(common + random.standard_t(2, size=(rows, scores)), 1)


@pytest.mark.parametrize("a", [0.5, 0.1])
def test_false_alarms_within_a_round_are_rarer_than_stated(a: float) -> None:
    rounds = 120
    alarms = sum(max(fed(seed)) >= 1 / a for seed in range(rounds))
    assert stats.binomtest(alarms, rounds, a, alternative="greater").pvalue > 0.001


@pytest.mark.slow
def test_false_alarms_over_two_thousand_rounds() -> None:
    highest = [max(fed(seed, reference=30)) for seed in range(2000)]
    for a in (0.5, 0.2, 0.05, 0.01):
        alarms = sum(one >= 1 / a for one in highest)
        assert stats.binomtest(alarms, len(highest), a, alternative="greater").pvalue > 0.001


def test_the_mean_of_each_scores_evidence_is_one() -> None:
    """It is a martingale: at a fixed time its mean is 1."""
    found = []
    for seed in range(400):
        random = np.random.default_rng(seed)
        made = ConformalMartingale(_scores(random, 20, 1), points=50)
        for _ in range(50):
            made.add(_scores(random, 1, 1)[0].tolist(), random.random(1).tolist())
        found.append(float(made.each[0]))
    spread = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 1) < 4 * spread


@pytest.mark.parametrize("at", [0, 100])
def test_a_change_is_found_whenever_it_comes(at: int) -> None:
    found = fed(1, shift=8.0, at=at)
    assert max(found[:at], default=0.0) < 100
    assert max(found[at : at + 60]) >= 100


def test_evidence_fades_when_a_change_is_undone() -> None:
    random = np.random.default_rng(0)
    made = ConformalMartingale(_scores(random, 400, 1), points=4000)
    for number in range(1300):
        shift = 6.0 if 100 <= number < 200 else 0.0
        made.add((_scores(random, 1, 1)[0] + shift).tolist(), random.random(1).tolist())
        if number == 199:
            assert made.digits > 2
    assert made.digits < 2


def test_a_round_begins_anew() -> None:
    random = np.random.default_rng(0)
    made = ConformalMartingale(_scores(random, 50, 2), points=30)
    for _ in range(30):
        made.add([9.0, 9.0], random.random(2).tolist())
    assert made.points_seen == 30
    assert made.digits > 1
    made.add([0.0, 0.0], [0.5, 0.5])
    assert made.points_seen == 1
    assert made.digits < 0


def test_the_ranks_are_the_conformal_p_values_of_the_definition() -> None:
    bag = sorted([1.0, 2.0, 2.0, 3.0])
    assert ConformalMartingale._rank(list(bag), 2.0, 0.25) == pytest.approx((1 + 0.25 * 3) / 5)
    assert ConformalMartingale._rank(list(bag), 9.0, 1.0) == pytest.approx(1 / 5)
    assert ConformalMartingale._rank(list(bag), 0.0, 0.0) == pytest.approx(4 / 5)


def test_the_stakes_are_the_sum_of_jumpers_that_began_at_each_point() -> None:
    """Against the definition: a simple jumper (Vovk et al. 2021, algorithm 1) started at every point, added up."""
    random = np.random.default_rng(5)
    reference = _scores(random, 40, 1)
    made = ConformalMartingale(reference, points=25)
    ranks: list[float] = []
    bag = sorted(reference[:, 0].tolist())
    for number in range(1, 21):
        score, lot = _scores(random, 1, 1)[0].tolist(), [float(random.random())]
        ranks.append(ConformalMartingale._rank(bag, score[0], lot[0]))
        made.add(score, lot)
        begun = sum(_jumper(ranks[start:]) for start in range(number))
        assert float(made.each[0]) == pytest.approx(begun / 25 + 1 - number / 25)


def _jumper(ranks: list[float]) -> float:
    stakes = np.full(len(BETS), 1 / len(BETS))
    for rank in ranks:
        stakes = (1 - JUMP) * stakes + JUMP * stakes.sum() / len(BETS)
        stakes *= 1 + np.array(BETS) * (rank - 0.5)
    return float(stakes.sum())
