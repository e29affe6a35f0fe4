"""Scores of several models and seeds on the same rows: what they are equal to, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from luthier.auto.search.scores import PLAIN, Key, ScoreTable, compute_mean_pair_variance
from luthier.core.errors import DataError
from luthier.metrics.kinds.labels import Accuracy, MacroF1
from luthier.metrics.metric import EvalPredictions
from luthier.metrics.paired import compare_paired, mcnemar

REFERENCES = ["a", "b", "c"] * 20


def said(seed: int, wrong: float, clusters: list[str] | None = None) -> EvalPredictions:
    random = np.random.default_rng(seed)
    other = {"a": "b", "b": "c", "c": "a"}
    predictions = [other[one] if random.random() < wrong else one for one in REFERENCES]
    return EvalPredictions.of(predictions, REFERENCES, clusters=clusters)


@pytest.mark.parametrize("metric", [Accuracy(), MacroF1()])
def test_one_seed_is_compared_as_evaluations_are(metric: Accuracy | MacroF1) -> None:
    mine, its = said(1, 0.1), said(2, 0.4)
    table = ScoreTable.of_answers(metric, {0: [its], 3: [mine]})
    assert table.compare(3, 0) == compare_paired(metric, mine, its)
    assert table.mean(3) == pytest.approx(metric.measure(mine.predictions, REFERENCES).value)


def test_several_seeds_of_a_mean_are_the_mean_of_averaged_rows() -> None:
    random = np.random.default_rng(0)
    rows = {key: [random.random(40) for _ in range(3)] for key in (0, 1)}
    averaged = {key: [np.mean(seeds, axis=0)] for key, seeds in rows.items()}
    several, one = ScoreTable.of_rows("accuracy", rows), ScoreTable.of_rows("accuracy", averaged)
    assert several.mean(1) == pytest.approx(one.mean(1))
    np.testing.assert_allclose(several.covariance([0, 1]), one.covariance([0, 1]))
    differences = np.mean(rows[1], axis=0) - np.mean(rows[0], axis=0)
    covariance = several.covariance([0, 1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert variance == pytest.approx(differences.var(ddof=1) / 40)
    assert 2 * compute_mean_pair_variance(covariance) == pytest.approx(variance)


def test_several_seeds_of_a_metric_over_classes_are_the_mean_of_their_metrics() -> None:
    seeds = [said(1, 0.1), said(2, 0.2), said(3, 0.3)]
    table = ScoreTable.of_answers(MacroF1(), {0: seeds, 1: seeds[::-1]})
    each = [MacroF1().measure(one.predictions, REFERENCES).value for one in seeds]
    assert table.values(0) == pytest.approx(each)
    found = table.compare(1, 0)
    assert found.difference == pytest.approx(0)
    assert found.p == 1


def test_right_and_wrong_rows_of_one_seed_are_compared_by_mcnemars_test() -> None:
    mine, its = [1, 1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 1, 1, 1]
    found = ScoreTable.of_rows("accuracy", {0: [its], 1: [mine]}).compare(1, 0)
    assert (found.p, found.fixed, found.broken) == (mcnemar(4, 1), 4, 1)


def test_rows_that_hang_together_count_once() -> None:
    rows = {key: [np.repeat(np.random.default_rng(key).random(10), 8)] for key in (0, 1)}
    clusters = [f"c{at // 8}" for at in range(80)]
    apart = ScoreTable.of_rows("accuracy", rows).compare(1, 0)
    together = ScoreTable.of_rows("accuracy", rows, clusters=clusters).compare(1, 0)
    assert together.rows == 10
    assert together.difference == pytest.approx(apart.difference)
    assert together.high - together.low > 2 * (apart.high - apart.low)
    answers = {key: [said(key, 0.2, [f"c{at // 6}" for at in range(60)])] for key in (0, 1)}
    assert ScoreTable.of_answers(MacroF1(), answers).rows == 10


def test_the_variance_of_seeds_is_what_rows_do_not_account_for() -> None:
    random = np.random.default_rng(5)
    calm: list[float] = []
    unsure: list[float] = []
    for _ in range(60):
        level = random.normal(0, 1, 100)
        for found, deviation in ((calm, 0.0), (unsure, 0.5)):
            rows = {
                key: [level + random.normal(0, deviation) + random.normal(0, 1, 100) for _ in range(4)]
                for key in (0, 1, 2)
            }
            found.append(ScoreTable.of_rows("reward", rows, span=(-5, 5)).seed_variance[0])
    assert np.mean(calm) < 0.005
    assert np.mean(unsure) == pytest.approx(0.25, rel=0.2)


def test_seeds_that_differ_widen_the_interval_and_raise_p() -> None:
    random = np.random.default_rng(1)
    levels = {0: (0.0, 0.3, 0.6), 1: (0.4, 0.7, 1.0)}
    rows = {key: [np.clip(random.normal(one, 0.05, 200), -1, 2) for one in seeds] for key, seeds in levels.items()}
    table = ScoreTable.of_rows("reward", rows, span=(-1, 2))
    alone = ScoreTable.of_rows("reward", {key: [np.mean(seeds, axis=0)] for key, seeds in rows.items()}, span=(-1, 2))
    assert alone.compare(1, 0).p < 0.001
    found = table.compare(1, 0)
    assert found.low < 0 < found.high
    assert found.p > 0.05
    assert found.test.endswith("Student's t over rows and seeds")


def test_a_baseline_of_one_seed_is_compared_with_models_of_several() -> None:
    random = np.random.default_rng(2)
    plain = random.random(50)
    scores: dict[Key, list[Any]] = {0: [plain + 0.1, plain + 0.3], PLAIN: [plain]}
    table = ScoreTable.of_rows("accuracy", scores)
    assert table.trials == [0]
    assert table.compare(0, PLAIN).difference == pytest.approx(0.2)


def test_a_model_that_no_seed_changes_adds_no_variance_of_seeds() -> None:
    random = np.random.default_rng(8)
    drawn = [np.clip(random.normal(one, 0.1, 100), 0, 1) for one in (0.4, 0.5, 0.6)]
    other = [np.clip(random.normal(one, 0.1, 100), 0, 1) for one in (0.6, 0.7, 0.8)]
    scores = {0: drawn, 1: other, 2: [np.clip(random.normal(0.7, 0.1, 100), 0, 1)]}
    fixed, unknown = (ScoreTable.of_rows("reward", scores, fixed=each) for each in ([2], []))
    assert fixed.variance_by_seeds(2) == 0
    assert unknown.variance_by_seeds(2) == 3 * unknown.variance_by_seeds(0) > 0
    mine, its = fixed.compare(2, 0), unknown.compare(2, 0)
    assert mine.difference == its.difference
    assert mine.high - mine.low < its.high - its.low


def test_less_is_better_where_the_metric_says_so() -> None:
    table = ScoreTable.of_rows("wer", {0: [[0.5, 0.5]], 1: [[0.1, 0.3]]}, lower_is_better=True)
    assert table.gain(1, 0) == pytest.approx(0.3)


def test_the_order_of_rows_changes_no_interval() -> None:
    random = np.random.default_rng(3)
    rows = {key: [random.random(30)] for key in (0, 1)}
    turned = {key: [seeds[0][::-1]] for key, seeds in rows.items()}
    a, b = (ScoreTable.of_rows("accuracy", each).compare(1, 0) for each in (rows, turned))
    assert (a.low, a.high) == pytest.approx((b.low, b.high))


@pytest.mark.parametrize(
    ("scores", "what"),
    [
        ({0: [[1, 0]], 1: [[1, 0, 1]]}, "not scored on the same rows"),
        ({0: [[1, float("nan")]]}, "no number"),
        ({0: []}, "no scores"),
        ({0: [[]]}, "no scores"),
    ],
)
def test_rows_that_do_not_fit_are_refused(scores: dict[int | str, list[list[float]]], what: str) -> None:
    with pytest.raises(DataError, match=what):
        ScoreTable.of_rows("accuracy", scores)


def test_answers_to_other_rows_are_refused() -> None:
    other = EvalPredictions.of(["a"] * 60, ["a"] * 60)
    with pytest.raises(DataError, match="did not answer the same rows"):
        ScoreTable.of_answers(Accuracy(), {0: [said(0, 0.1)], 1: [other]})
