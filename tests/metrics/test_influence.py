"""Metrics that are no sums: pulls against numerical derivatives, values against scikit-learn and brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.component import component_of_kind
from luthier.metrics.columns import area_under_roc, influence_from_jackknife, mean_hit_share
from luthier.metrics.metric import EvalPredictions, Metric, MetricResult, measure_all

Rows = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=3, max_size=40)


def drawn(seed: int, rows: int, classes: int, ties: int = 0) -> EvalPredictions:
    """Labels with stated probabilities that are somewhat right; few different ones when `ties` is set."""
    chance = np.random.default_rng(seed)
    real = chance.integers(0, classes, rows)
    scores = chance.gamma(1.0, size=(rows, classes))
    scores[np.arange(rows), real] += 0.5
    chances = scores / scores.sum(axis=1, keepdims=True)
    if ties:
        chances = np.round(chances * ties) + 0.5
        chances /= chances.sum(axis=1, keepdims=True)
    names = [f"class {number}" for number in range(classes)]
    stated = [dict(zip(names, row.tolist(), strict=True)) for row in chances]
    said = [names[row.argmax()] for row in chances]
    return EvalPredictions.of(said, [names[number] for number in real], label_scores=stated)


def measured(answers: EvalPredictions, kind: str, **more: Any) -> MetricResult:
    return measure_all([component_of_kind(Metric, kind)(kind=kind, **more)], answers)[0]


def matrix(answers: EvalPredictions) -> tuple[np.ndarray, np.ndarray]:
    names = sorted({row[0] for row in answers.references})
    chances = np.array([[row[name] for name in names] for row in answers.label_scores or ()])
    return chances, np.array([[row[0] == name for name in names] for row in answers.references], dtype=int)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("ties", [0, 4])
def test_areas_are_scikit_learns(classes: int, ties: int) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    answers = drawn(classes, 150, classes, ties)
    chances, real = matrix(answers)
    assert measured(answers, "auroc").value == pytest.approx(roc_auc_score(real, chances, average="macro"), abs=1e-9)
    macro = average_precision_score(real, chances, average="macro")
    assert measured(answers, "auprc").value == pytest.approx(macro, abs=1e-9)
    for place, name in enumerate(sorted({row[0] for row in answers.references})):
        one = real[:, place], chances[:, place]
        assert measured(answers, "auroc", label=name).value == pytest.approx(roc_auc_score(*one), abs=1e-9)
        assert measured(answers, "auprc", label=name).value == pytest.approx(average_precision_score(*one), abs=1e-9)


def test_two_labels_are_one_curve() -> None:
    from sklearn.metrics import roc_auc_score

    answers = drawn(1, 80, 2)
    chances, real = matrix(answers)
    assert measured(answers, "auroc").value == pytest.approx(roc_auc_score(real[:, 1], chances[:, 1]), abs=1e-9)


@given(Rows)
@settings(deadline=None)
def test_risk_coverage_by_counting(rows: list[tuple[int, bool]]) -> None:
    sure, wrong = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], float)
    risks = [wrong[sure >= mine].mean() for mine in sure]
    found = mean_hit_share(sure, wrong, np.ones(len(rows)))
    assert found.value == pytest.approx(np.mean(risks), abs=1e-12)


def weighted_roc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    pairs = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    up, down = weights * positive, weights * (1 - positive)
    return float(up @ pairs @ down / (up.sum() * down.sum()))


def weighted_shares(scores: np.ndarray, hits: np.ndarray, over: np.ndarray, weights: np.ndarray) -> float:
    deep = scores[None, :] >= scores[:, None]
    share = (deep @ (weights * hits)) / (deep @ weights)
    return float((share * over * weights).sum() / (over * weights).sum())


@given(Rows, st.integers(0, 100))
@settings(deadline=None, max_examples=50)
def test_pulls_are_derivatives(rows: list[tuple[int, bool]], seed: int) -> None:
    scores, hits = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], float)
    if not 0 < hits.sum() < len(rows):
        return
    step = 1e-6
    away = np.random.default_rng(seed).normal(size=len(rows))
    away -= away.mean()  # the weights' mean stays 1
    cases = (
        (area_under_roc(scores, hits), lambda w: weighted_roc(scores, hits, w)),
        (mean_hit_share(scores, hits, hits), lambda w: weighted_shares(scores, hits, hits, w)),
        (mean_hit_share(scores, hits, np.ones(len(rows))), lambda w: weighted_shares(scores, hits, w * 0 + 1, w)),
    )
    for found, value in cases:
        slope = (value(1 + step * away) - value(1 - step * away)) / (2 * step)
        assert found.pulls.sum() == pytest.approx(0, abs=1e-8)
        assert (away * found.pulls).mean() == pytest.approx(slope, abs=1e-6)


def test_the_spread_is_delongs() -> None:
    """The standard error of AUROC against that of DeLong's formula, computed plainly."""
    answers = drawn(4, 300, 2)
    chances, real = matrix(answers)
    up, down = chances[real[:, 1] == 1, 1], chances[real[:, 1] == 0, 1]
    wins = (up[:, None] > down[None, :]).astype(float)
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / len(up) + wins.mean(axis=0).var(ddof=1) / len(down))
    score = measured(answers, "auroc")
    assert (score.high - score.low) / (2 * 1.96) == pytest.approx(error, rel=0.06)


def test_leaving_out_gives_the_mean_its_own_pulls() -> None:
    rows = np.random.default_rng(0).normal(size=30)
    without = (rows.sum() - rows) / 29
    assert influence_from_jackknife(rows.mean(), without).pulls == pytest.approx(rows - rows.mean())


@pytest.mark.parametrize("coverage", [0.2, 0.5, 0.8, 1.0])
def test_accuracy_at_coverage_by_sorting(coverage: float) -> None:
    answers = drawn(2, 100, 3)
    chances, _ = matrix(answers)
    surest = np.argsort(-chances.max(axis=1))[: round(coverage * 100)]
    right = np.array([said in real for said, real in zip(answers.predictions, answers.references, strict=True)])
    found = measured(answers, "accuracy_at_coverage", coverage=coverage)
    assert found.value == pytest.approx(right[surest].mean())
    assert found.low < found.value < found.high


@pytest.mark.parametrize("kind", ["auroc", "auprc"])
def test_one_label_ranks_nothing_and_says_so(kind: str) -> None:
    answers = drawn(0, 40, 2)
    one = answers.select([row for row, real in enumerate(answers.references) if real == ("class 0",)])
    score = measured(one, kind)
    assert (score.low, score.high) == (0.0, 1.0)
    assert "nothing to rank" in score.note


def test_all_ties_rank_nothing() -> None:
    answers = EvalPredictions.of(["a", "b"] * 10, ["a", "a", "b", "b"] * 5, label_scores=[{"a": 0.5, "b": 0.5}] * 20)
    assert measured(answers, "auroc").value == 0.5
    assert measured(answers, "aurc").value == 0.5
