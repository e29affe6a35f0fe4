"""A/A: two models that are equally good are told apart no more often than the test claims, and a real gap is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from luthier.eval.analysis import compare_with_models
from luthier.metrics.columns import WeightedColumn
from luthier.metrics.metric import EvalPredictions, Metric

ROWS, RUNS = 80, 150
LABELS = ("billing", "delivery", "account")
METRICS = [Metric.parse(name) for name in ("accuracy", "macro_f1", "mcc")]


def replies(draw: np.random.Generator, real: Sequence[str], share: float) -> EvalPredictions:
    """Answers of which about a share is right, the others wrong at random."""
    said = [one if draw.random() < share else LABELS[draw.integers(3)] for one in real]
    return EvalPredictions.of(said, real)


def alarms(gap: float) -> np.ndarray:
    """In how many runs a base and two rivals are told apart from the subject: by accuracy, by the other metrics."""
    found = np.zeros(2)
    for run in range(RUNS):
        draw = np.random.default_rng([5, run])
        real = [LABELS[place] for place in draw.integers(3, size=ROWS)]
        models = {"tuned": replies(draw, real, 0.6 + gap)}
        models |= {name: replies(draw, real, 0.6) for name in ("base", "one", "two")}
        rows = compare_with_models(METRICS, models, "tuned", seed=run)
        for place, family in enumerate(("main", "others")):
            found[place] += any(row["p_holm"] < 0.05 for row in rows if row["family"] == family)
    return found / RUNS


@pytest.mark.slow
def test_equal_models_raise_few_alarms() -> None:
    """Each family of comparisons raises a false alarm in 5 % of the runs at most, chance aside."""
    margin = 3 * (0.05 * 0.95 / RUNS) ** 0.5
    assert (alarms(0.0) <= 0.05 + margin).all()


@pytest.mark.slow
def test_a_real_gap_is_found() -> None:
    assert (alarms(0.3) > 0.8).all()


@pytest.mark.slow
def test_columns_of_tasks_keep_their_level_and_power() -> None:
    """Shares, means and perplexities of tasks: alarms as claimed, and the stated detectable gap is found as claimed."""
    false, found = dict.fromkeys(("share", "mean", "perplexity"), 0), 0
    for run in range(RUNS):
        draw = np.random.default_rng([6, run])
        hard = draw.random(ROWS)
        one, two = ((draw.random(ROWS) < hard).astype(float) for _ in range(2))
        pairs = {
            "share": (one, two),
            "mean": tuple(np.clip(hard + draw.normal(0, 0.1, ROWS), 0, 1) for _ in range(2)),
            "perplexity": tuple(-2 - hard + draw.normal(0, 0.3, ROWS) for _ in range(2)),
        }
        for how, (a, b) in pairs.items():
            told = WeightedColumn.of(how, a.tolist()).against("x", WeightedColumn.of(how, b.tolist()), seed=run)  # type: ignore[arg-type]
            false[how] += told.p < 0.05
        mine = WeightedColumn.of("mean", pairs["mean"][0].tolist())
        gap = mine.against("x", WeightedColumn.of("mean", pairs["mean"][1].tolist()), seed=run).detectable
        found += mine.against("x", WeightedColumn.of("mean", (pairs["mean"][1] - gap).tolist()), seed=run).p < 0.05
    margin = 3 * (0.05 * 0.95 / RUNS) ** 0.5
    assert max(false.values()) / RUNS <= 0.05 + margin
    assert 0.6 < found / RUNS < 0.95
