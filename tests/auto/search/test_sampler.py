"""Samples of a branch, compared with Optuna's own sampler by the same seed."""

from __future__ import annotations

from typing import Any

import optuna

from luthier.auto.search.sampler import (
    STARTUP_TRIALS,
    TrialObservation,
    count_points,
    encode_value,
    sample_settings,
)
from luthier.core.param_space import ParamDistribution

BRANCH: Any = {
    "learning_rate": ParamDistribution(low=1e-5, high=1e-1, log=True),
    "r": ParamDistribution(values=(32, 4, 8)),
    "steps": ParamDistribution(low=1, high=64, log=True, integer=True),
    "quality": ParamDistribution(values=(True, False)),
}
SPACE: dict[str, Any] = {
    "learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
    "r": optuna.distributions.IntDistribution(0, 2),
    "steps": optuna.distributions.IntDistribution(1, 64, log=True),
    "quality": optuna.distributions.CategoricalDistribution((0, 1)),
}


def _value(params: dict[str, Any]) -> float:
    return -abs(float(params["learning_rate"]) - 1e-3) - 0.01 * float(params["r"])


def test_samples_are_those_of_optunas_sampler_by_the_same_seed() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    draws = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    known = [draws.ask(SPACE).params for _ in range(3 * STARTUP_TRIALS)]
    its = optuna.samplers.TPESampler(multivariate=True, n_startup_trials=STARTUP_TRIALS, seed=11)
    study = optuna.create_study(direction="maximize", sampler=its)
    for params in known:
        study.add_trial(optuna.trial.create_trial(params=params, distributions=SPACE, value=_value(params)))
    expected = [study.ask(SPACE).params for _ in range(6)]
    values = (4, 8, 32)
    seen = [
        TrialObservation({**one, "r": values[one["r"]], "quality": not one["quality"]}, 2, _value(one), whole=True)
        for one in known
    ]
    found = sample_settings(BRANCH, seen, count=6, seed=11, accept=lambda settings: True)
    assert found == [{**one, "r": values[one["r"]], "quality": not one["quality"]} for one in expected]


def test_samples_gather_where_trials_were_good() -> None:
    branch: Any = {"x": ParamDistribution(low=0.0, high=1.0)}
    seen = [TrialObservation({"x": place / 60}, 0, -abs(place / 60 - 0.7), whole=False) for place in range(60)]
    found = [one["x"] for one in sample_settings(branch, seen, count=20, seed=0, accept=lambda settings: True)]
    assert sum(0.5 < x < 0.9 for x in found) >= 14


def test_trials_of_higher_rungs_rank_before_lower_ones_and_failed_last() -> None:
    branch: Any = {"x": ParamDistribution(low=0.0, high=1.0)}
    lower = [TrialObservation({"x": 0.8 + place / 100}, 0, 0.99, whole=False) for place in range(10)]
    higher = [TrialObservation({"x": 0.1 + place / 100}, 1, 0.5, whole=False) for place in range(4)]
    failed = [TrialObservation({"x": 0.5 + place / 100}, -1, float("-inf"), whole=False) for place in range(10)]
    seen = [*lower, *failed, *higher]
    found = [one["x"] for one in sample_settings(branch, seen, count=20, seed=0, accept=lambda settings: True)]
    assert sum(x < 0.35 for x in found) >= 14


def test_observations_outside_the_distributions_are_left_out() -> None:
    assert encode_value(BRANCH["learning_rate"], "auto") is None
    assert encode_value(BRANCH["learning_rate"], 1.0) is None
    assert encode_value(BRANCH["r"], 5) is None
    assert encode_value(BRANCH["quality"], 1) is None
    assert encode_value(BRANCH["steps"], 2.5) is None
    assert encode_value(BRANCH["r"], 32) == 2
    outside = [
        TrialObservation({"learning_rate": "auto", "r": 8, "steps": 1, "quality": True}, 0, 0.5, whole=False)
    ] * 20
    assert len(sample_settings(BRANCH, outside, count=3, seed=0, accept=lambda settings: True)) == 3


def test_a_finite_branch_is_listed_when_samples_repeat() -> None:
    branch: Any = {
        "a": ParamDistribution(values=("x", "y", "z")),
        "n": ParamDistribution(low=1, high=4, integer=True),
    }
    taken: list[dict[str, Any]] = []

    def accept(settings: Any) -> bool:
        new = settings not in taken
        taken.extend([settings] * new)
        return new

    found = sample_settings(branch, [], count=50, seed=0, accept=accept)
    assert len(found) == count_points(branch) == 12
    assert sample_settings(branch, [], count=1, seed=0, accept=accept) == []


def test_samples_are_a_function_of_the_seed() -> None:
    one, same, other = (sample_settings(BRANCH, [], count=4, seed=seed, accept=lambda _: True) for seed in (1, 1, 2))
    assert one == same != other
