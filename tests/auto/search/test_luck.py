"""How much of the best validation score is luck."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.auto.search.luck import compute_expected_luck, compute_expected_maximum, measure_luck
from luthier.auto.search.scores import Key, ScoreTable
from luthier.core.errors import DataError


def table(effects: list[float], rows: int, seed: int) -> ScoreTable:
    random = np.random.default_rng(seed)
    level = random.normal(0, 1, rows)
    scores: dict[Key, list[list[float]]] = {
        key: [list(level + effect + random.normal(0, 1, rows))] for key, effect in enumerate(effects)
    }
    return ScoreTable.of_rows("reward", scores, span=(-5, 5))


@pytest.mark.parametrize(
    ("count", "mean"), [(1, 0.0), (2, np.pi**-0.5), (3, 1.5 * np.pi**-0.5), (10, 1.538753), (500, 3.036699)]
)
def test_the_greatest_of_normal_values_has_the_known_mean(count: int, mean: float) -> None:
    assert compute_expected_maximum(count) == pytest.approx(mean, abs=1e-5)


def test_what_is_expected_grows_with_trials_and_falls_with_rows() -> None:
    assert compute_expected_luck(1, 30) == pytest.approx(0, abs=1e-9)
    assert compute_expected_luck(500, 30) == pytest.approx(0.2772, abs=1e-3)
    assert compute_expected_luck(500, 120) == pytest.approx(compute_expected_luck(500, 30) / 2)
    with pytest.raises(DataError):
        compute_expected_luck(5, 0)


def test_of_equal_trials_the_luck_measured_is_the_luck_expected() -> None:
    measured = [measure_luck(table([0.0] * 40, 100, seed), trials=40).expected for seed in range(30)]
    assert np.mean(measured) == pytest.approx(compute_expected_luck(40, 100, 1.0), rel=0.1)


def test_five_hundred_trials_on_thirty_rows_are_said_and_not_believed() -> None:
    found = measure_luck(table([0.0] * 500, 30, 1), trials=500)
    assert not found.believed
    assert found.expected > 0.4
    assert "500 trials on 30 validation rows" in found.sentence
    assert found.sentence.endswith("the gain is not to be believed before the test rows confirm it.")


def test_a_large_gain_of_few_trials_is_believed() -> None:
    found = measure_luck(table([0.0, 0.1, 1.0, 0.2], 200, 1), trials=4)
    assert found.believed
    assert found.expected < 0.05
    assert found.observed == pytest.approx(1.0, abs=0.25)
    assert "not to be believed" not in found.sentence


def test_trials_that_are_not_in_the_table_add_luck() -> None:
    rows = table([0.0] * 10, 50, 2)
    assert measure_luck(rows, trials=200).expected > 1.5 * measure_luck(rows, trials=10).expected


def test_one_trial_and_one_row_say_nothing() -> None:
    alone = measure_luck(table([0.0], 20, 0), trials=1)
    assert (alone.expected, alone.observed, alone.believed) == (0, 0, False)
    assert not measure_luck(table([0.0, 3.0], 1, 0), trials=2).believed
    with pytest.raises(DataError, match="trial 0"):
        measure_luck(ScoreTable.of_rows("accuracy", {1: [[1.0, 0.0]]}), trials=1)
