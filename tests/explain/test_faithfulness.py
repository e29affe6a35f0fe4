"""FaithfulnessScores by ERASER's definitions, computed here by hand; random orders and attacks are told."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from luthier.explain.explainer import ExplainedPrompt
from luthier.explain.explainers.leave_one_out import leave_one_out
from luthier.explain.explainers.shapley import ShapleyExplainer, exact_shapley
from luthier.explain.faithfulness import correlate_ranks, measure_faithfulness, rank_units
from luthier.explain.scorer import PromptScorer, Units
from luthier.explain.units import CutPrompt, PromptUnit


class GameScorer(PromptScorer):
    """A value from a function of the numbers of the units that are kept."""

    def __init__(self, count: int, value: object, kind: str = "class") -> None:
        units = tuple(PromptUnit(str(number), 0, "user", number, number + 1) for number in range(count))
        super().__init__(CutPrompt("words", units), kind)  # type: ignore[arg-type]
        self.value = value

    def _score(self, kept: Sequence[Units]) -> list[float]:
        return [self.value(one) for one in kept]  # type: ignore[operator]


def weighted(weights: Sequence[float]) -> object:
    """The log of a probability to which each unit adds its weight."""
    return lambda kept: math.log(0.05 + sum(weights[unit] for unit in kept))


WEIGHTS = [0.3, 0.0, 0.2, 0.1, 0.0, 0.05, 0.0, 0.15, 0.0, 0.1]


def test_measures_are_erasers() -> None:
    scorer = GameScorer(10, weighted(WEIGHTS))
    found = measure_faithfulness(scorer, WEIGHTS, orders=39)
    full = 0.05 + sum(WEIGHTS)
    tops = [[0], [0], [0], [0, 2], [0, 2, 7, 3, 9]]  # 1, 5, 10, 20 and 50 % of ten units
    comprehensiveness = [sum(WEIGHTS[unit] for unit in top) for top in tops]
    sufficiency = [full - 0.05 - sum(WEIGHTS[unit] for unit in top) for top in tops]
    assert found.comprehensiveness_at == pytest.approx(comprehensiveness)
    assert found.sufficiency_at == pytest.approx(sufficiency)
    assert found.comprehensiveness == pytest.approx(sum(comprehensiveness) / 5)
    assert found.sufficiency == pytest.approx(sum(sufficiency) / 5)
    assert found.verdict == "better than random"
    assert found.p == pytest.approx(0.5 / 40)
    assert found.rank_agreement == pytest.approx(1, abs=0.05)


def test_a_worthless_order_is_told() -> None:
    scorer = GameScorer(10, weighted(WEIGHTS))
    found = measure_faithfulness(scorer, [-weight for weight in WEIGHTS])
    assert found.verdict == "no better than random"
    assert found.comprehensiveness < found.random_comprehensiveness.mean
    assert "NOT better" in found.sentence
    flat = measure_faithfulness(GameScorer(10, lambda kept: -1.0), WEIGHTS)
    assert flat.verdict == "no better than random"
    assert flat.rank_agreement is None
    assert measure_faithfulness(GameScorer(3, weighted(WEIGHTS)), [3, 2, 1]).verdict == "too few units"


def test_doubled_units_lower_faithfulness() -> None:
    """Where two units say the same, taking one away shows nothing, and comprehensiveness falls."""

    def doubled(kept: Units) -> float:
        return math.log(0.05 + 0.9 * bool(kept & {0, 5}))

    found = measure_faithfulness(GameScorer(10, doubled), leave_one_out(GameScorer(10, doubled)))
    assert found.comprehensiveness_at[0] == pytest.approx(0)
    assert leave_one_out(GameScorer(10, doubled))[0] == pytest.approx(0)
    shares = exact_shapley(GameScorer(10, doubled))
    assert shares[0] == pytest.approx(shares[5])
    assert shares[0] > 1


def test_shapley_values_of_a_sum_are_its_parts_and_samples_come_near() -> None:
    game = GameScorer(
        9, lambda kept: sum((unit + 1) * 0.1 for unit in kept) + 0.5 * (len(kept & {0, 1}) == 2), "reward"
    )
    exact = exact_shapley(game)
    assert exact == pytest.approx([0.35, 0.45, *((unit + 1) * 0.1 for unit in range(2, 9))])
    drawn = ShapleyExplainer(exact_up_to=2, orders=64).attribute(ExplainedPrompt(game, None, seed=3))
    assert sum(drawn.scores) == pytest.approx(drawn.expected)
    assert list(drawn.scores) == pytest.approx(exact, abs=0.1)
    assert drawn.notes


def test_ranks_and_their_agreement() -> None:
    assert rank_units([0.1, 0.5, 0.5, -1]) == [1, 2, 0, 3]
    found, low, high = correlate_ranks([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5])
    assert found == pytest.approx(29 / 35)
    assert low is not None
    assert high is not None
    assert low < 29 / 35 < high < 1
    assert correlate_ranks([1, 1], [1, 2]) == (None, None, None)
    assert correlate_ranks([1, 2], [3, 4])[0] == 1
