"""Metrics of columns: gaps are counted and never zeros, and agreement is Krippendorff's."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.core.component import components_by_kind
from luthier.core.errors import DataError
from luthier.core.scorer import Scorer
from luthier.metrics.agreement import krippendorff_alpha
from luthier.metrics.kinds.answers import ratio_of_sums as share
from luthier.metrics.kinds.scored import Fluency, JudgeAgreement, JudgeScore
from luthier.metrics.metric import EvalPredictions, Metric, measure_all
from luthier.metrics.paired import compare_paired, compare_row_statistics


def rows(**columns: list[float | None]) -> EvalPredictions:
    count = len(next(iter(columns.values())))
    return EvalPredictions.of(["a"] * count, ["b"] * count, columns=columns)


def test_gaps_are_left_out_and_said() -> None:
    score = measure_all([JudgeScore()], rows(judge=[1.0, None, 0.5, None]))[0]
    assert score.value == 0.75
    assert "2 of 4 rows have no number" in score.note
    nothing = measure_all([JudgeScore()], rows(judge=[None, None]))[0]
    assert (nothing.low, nothing.high) == (0.0, 1.0)
    assert "no row has a number" in nothing.note


@pytest.mark.parametrize("judge", [[1.0] * 10, [1.0, 1.0, 0.0, 1.0, 0.0]])
@pytest.mark.parametrize("kind", ["judge_score", "judge_consistency", "judge_agreement"])
def test_gaps_make_nothing_surer(kind: str, judge: list[float]) -> None:
    metric, human = Metric.parse(kind), [0.9 * one for one in judge]
    few = measure_all([metric], rows(judge=[*judge], judge_consistent=[*judge], human=[*human]))[0]
    gaps: list[float | None] = [None] * 90
    many = measure_all([metric], rows(judge=[*judge, *gaps], judge_consistent=[*judge, *gaps], human=[*human, *gaps]))[
        0
    ]
    assert many.value == few.value
    assert (many.low, many.high) == pytest.approx((few.low, few.high))


def test_rows_that_do_not_count_tell_no_two_models_apart() -> None:
    block = np.array([[1.0, 1.0]] * 10)
    few = compare_row_statistics("a", (block, block), share, width=1.0, lower_is_better=True, seed=1)
    more = np.concatenate([block, np.zeros((90, 2))])
    many = compare_row_statistics("a", (more, more), share, width=1.0, lower_is_better=True, seed=1)
    assert (many.low, many.high, many.detectable) == (few.low, few.high, few.detectable)


def test_comparison_takes_rows_that_both_have() -> None:
    a, b = rows(judge=[1.0, 1.0, None, 0.5]), rows(judge=[0.5, None, 0.0, 0.5])
    found = compare_paired(JudgeScore(), a, b)
    assert (found.rows, found.difference, found.fixed, found.broken) == (2, 0.25, 1, 0)
    assert "2 of 4 rows lack a number" in found.note
    nothing = compare_paired(JudgeScore(), rows(judge=[1.0, None]), rows(judge=[None, 1.0]))
    assert (nothing.rows, nothing.p, nothing.low, nothing.high) == (0, 1.0, -1.0, 1.0)
    assert nothing.note == "no row has a number for both models"


@pytest.mark.parametrize("seed", range(5))
def test_agreement_is_krippendorffs(seed: int) -> None:
    chance = np.random.default_rng(seed)
    judge = chance.integers(0, 5, 40) / 4
    human = np.clip(judge + chance.integers(-1, 2, 40) / 4, 0, 1)
    found = measure_all([JudgeAgreement()], rows(judge=judge.tolist(), human=human.tolist()))[0]
    wanted = krippendorff_alpha(list(zip(judge.tolist(), human.tolist(), strict=True)), level="interval")
    assert found.value == pytest.approx(wanted.value, abs=1e-9)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.03)


def test_people_on_another_scale_are_an_error() -> None:
    with pytest.raises(DataError, match="from 0 to 1"):
        measure_all([JudgeAgreement()], rows(judge=[0.5], human=[4.0]))


def test_fluency_is_a_perplexity() -> None:
    score = measure_all([Fluency()], rows(fluency_logprob=[-4.0, -2.0, None], fluency_tokens=[2.0, 1.0, None]))[0]
    assert score.value == pytest.approx(np.exp(2))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none(number: float) -> None:
    with pytest.raises(DataError, match=r"row 1: scores\.judge"):
        rows(judge=[number])


def test_every_column_of_a_scorer_is_read_by_a_metric() -> None:
    read = {name for metric in components_by_kind(Metric).values() for name in metric.scored}
    written = {name for scorer in components_by_kind(Scorer).values() for name in scorer.writes}
    assert written <= read
    assert read - written == {"human", "reward", "reward_won"}  # people and a reward model give these
