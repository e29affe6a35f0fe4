"""Measures from statistics of rows: value, interval, power, and paired differences that a gate can use."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.core.artifact import Artifact
from luthier.eval.probe import ProbeContext, adjust_measure_p_values
from luthier.eval.results import SummedStatistic, compute_probe_measures, compute_ratio
from luthier.eval.task import read_held_out_task
from luthier.metrics.metric import EvalPredictions

FLIPS = SummedStatistic(name="bias.flip_rate", value=compute_ratio, proportion=True, signature="groups:gender")


@pytest.fixture
def bench(labels: Artifact) -> ProbeContext:
    answers = EvalPredictions.of(["a"], ["a"])
    return ProbeContext(
        recipe_dir=labels.folder,
        task=read_held_out_task(labels, "test", None),
        answers={"tuned": answers, "base": answers},
        seed=3,
        data=labels,
    )


def block(failed: int, rows: int) -> np.ndarray:
    return np.array([[float(row < failed), 1.0] for row in range(rows)])


def test_value_interval_and_difference(bench: ProbeContext) -> None:
    tuned, base = compute_probe_measures(
        FLIPS, {"tuned": block(10, 200), "base": block(60, 200)}, bench, {"tuned": {"women": 0.1}}
    )
    assert (tuned.value, base.value, tuned.rows) == (0.05, 0.3, 200)
    assert tuned.low < 0.05 < tuned.high
    assert tuned.detail == {"women": 0.1}
    difference = tuned.against["base"]
    assert difference.difference == pytest.approx(-0.25)
    assert difference.low < -0.25 < difference.high < 0
    assert (difference.fixed, difference.broken) == (50, 0)
    assert difference.p < 0.01
    assert base.against == {}
    assert tuned.signature == "bias.flip_rate|v:1|groups:gender|interval:wilson95"
    assert "against" not in tuned.as_json()


def test_more_rows_have_more_power(bench: ProbeContext) -> None:
    few, many = (compute_probe_measures(FLIPS, {"tuned": block(n // 10, n)}, bench)[0] for n in (50, 800))
    assert few.detectable is not None
    assert many.detectable is not None
    assert few.detectable == pytest.approx(4 * many.detectable, rel=0.15)


def test_the_family_is_corrected(bench: ProbeContext) -> None:
    found = compute_probe_measures(
        FLIPS, {"tuned": block(10, 200), "base": block(20, 200), "tfidf": block(60, 200)}, bench
    )
    for one in adjust_measure_p_values(found):
        assert one.p_holm is not None
        assert one.p_holm >= one.p


def test_no_rows_measure_nothing(bench: ProbeContext) -> None:
    assert compute_probe_measures(FLIPS, {"tuned": np.zeros((0, 2))}, bench) == []
    assert compute_probe_measures(FLIPS, {}, bench) == []
