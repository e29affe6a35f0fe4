"""Rows that hang together: intervals and tests take clusters for their units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.metrics.metric import EvalPredictions, Metric, measure_all
from luthier.metrics.paired import compare_paired

METRICS = [Metric.parse(name) for name in ("token_f1", "rougeL", "chrf", "macro_f1")]


def rows(seed: int, count: int, *, right: float = 0.6) -> EvalPredictions:
    chance = np.random.default_rng(seed)
    real = [f"w{number} x" for number in chance.integers(0, 4, count)]
    said = [one if chance.random() < right else f"w{chance.integers(0, 4)} y" for one in real]
    return EvalPredictions.of(said, real)


def thrice(one: EvalPredictions) -> EvalPredictions:
    """Every row three times, as a cluster."""
    places = [place for place in range(len(one)) for _ in range(3)]
    return replace(one.select(places), clusters=[f"c{place}" for place in places])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.kind)
def test_copies_of_a_row_tell_no_more_than_the_row(metric: Metric) -> None:
    a, b = rows(1, 60), rows(2, 60, right=0.4)
    b = replace(b, references=a.references)
    (once,), (more,) = (measure_all([metric], one, seed=3) for one in (a, thrice(a)))
    assert (more.value, more.low, more.high) == pytest.approx((once.value, once.low, once.high), abs=0.02)
    assert len(more.rows) == 180
    single, triple = compare_paired(metric, a, b, seed=3), compare_paired(metric, thrice(a), thrice(b), seed=3)
    assert (triple.difference, triple.low, triple.high) == pytest.approx(
        (single.difference, single.low, single.high), abs=0.03
    )
    assert triple.p == pytest.approx(single.p, abs=0.03)
    assert (triple.rows, triple.fixed) == (180, 3 * single.fixed)


def test_shares_of_clusters_hold_the_truth() -> None:
    """Turns of one conversation are right or wrong together: Wilson's interval of rows would hold it far too seldom."""
    metric, inside, naive = Metric.parse("accuracy"), 0, 0
    for seed in range(150):
        chance = np.random.default_rng([8, seed])
        turns = chance.integers(1, 7, 40)
        skill = np.repeat(chance.beta(0.6, 0.4, 40), turns)
        said = np.where(chance.random(len(skill)) < skill, "a", "b").tolist()
        told = EvalPredictions.of(
            said, ["a"] * len(said), clusters=[f"c{at}" for at in np.repeat(np.arange(40), turns)]
        )
        (score,) = measure_all([metric], told, seed=seed)
        (plain,) = measure_all([metric], replace(told, clusters=None), seed=seed)
        inside += score.low <= 0.6 <= score.high
        naive += plain.low <= 0.6 <= plain.high
    assert 0.90 <= inside / 150 <= 0.985
    assert naive / 150 < 0.88


def test_equal_models_on_clusters_raise_few_alarms() -> None:
    """McNemar over rows would cry wolf; the permutation of whole conversations does not."""
    metric, alarms, naive = Metric.parse("accuracy"), 0, 0
    for seed in range(100):
        chance = np.random.default_rng([9, seed])
        turns = chance.integers(2, 7, 30)
        places = np.repeat(np.arange(30), turns)
        models = []
        for _ in range(2):
            skill = np.repeat(chance.beta(0.3, 0.3, 30), turns)
            said = np.where(chance.random(len(skill)) < skill, "a", "b").tolist()
            models.append(EvalPredictions.of(said, ["a"] * len(said), clusters=[f"c{at}" for at in places]))
        alarms += compare_paired(metric, *models, seed=seed).p < 0.05
        naive += compare_paired(metric, *(replace(one, clusters=None) for one in models), seed=seed).p < 0.05
    assert alarms <= 11
    assert naive > 12


def test_a_cluster_for_every_row() -> None:
    with pytest.raises(DataError, match="clusters"):
        EvalPredictions.of(["a", "b"], ["a", "b"], clusters=["one"])
