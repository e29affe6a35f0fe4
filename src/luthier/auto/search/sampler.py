"""New settings of one branch: Optuna's multivariate TPE by ask and tell, without duplicates.

A branch has a study of its own, since a multivariate sampler falls back to independent sampling where trials do not
have the same parameters. The study lives in memory and is made anew from the results of the branch, so that samples
depend on the seed and on results only, never on the order in which results came.

Trials are ranked as Optuna ranks them: those that were trained whole by their value, then those that stopped at a rung
by that rung and their value there, then failed ones. A list of numbers is sampled in their order, any other list
without order.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.param_space import is_same_value

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial

    from luthier.core.param_space import ParamDistribution

    Branch = Mapping[str, ParamDistribution]

STARTUP_TRIALS = 3
"""Trials of a branch with a result before TPE samples; random samples until then."""
_ATTEMPTS = 8
"""Samples that may be refused in a row before untried points are listed instead."""
_LISTED = 20_000
"""Points of a finite branch that are listed at most."""


class TrialObservation(NamedTuple):
    """The known results of one trial of a branch."""

    settings: Mapping[str, Any]
    rung: int
    """The highest rung with a value; below zero where the trial failed."""
    value: float
    whole: bool
    """Whether that rung is the whole training."""


def sample_settings(
    branch: Branch,
    observations: Sequence[TrialObservation],
    *,
    count: int,
    seed: int,
    accept: Callable[[Mapping[str, Any]], bool],
) -> list[dict[str, Any]]:
    """Up to `count` settings that `accept` takes, fewer where the branch has no further ones.

    `accept` is called once for each candidate, and has to refuse what it took before.
    """
    if not branch:
        return [{}] if count and accept({}) else []
    study, space = build_study(branch, observations, seed), encode_branch(branch)
    rest: Iterator[dict[str, Any]] | None = None
    found: list[dict[str, Any]] = []
    for _ in range(count):
        settings = _sample_settings(study, space, branch, accept)
        if settings is None:
            rest = _iterate_points(branch, seed) if rest is None else rest
            settings = next((point for point in rest if accept(point)), None)
        if settings is None:
            break
        found.append(settings)
    return found


def build_study(branch: Branch, observations: Sequence[TrialObservation], seed: int) -> Study:
    """The study of a branch with what was observed; observations outside the distributions are left out."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=build_sampler(seed))
    space = encode_branch(branch)
    for observation in observations:
        params = {path: encode_value(branch[path], observation.settings.get(path)) for path in branch}
        if all(value is not None for value in params.values()):
            study.add_trial(_freeze(params, space, observation))
    return study


def build_sampler(seed: int) -> TPESampler:
    """The multivariate TPE of one branch."""
    from optuna.samplers import TPESampler

    return TPESampler(
        multivariate=True,
        constant_liar=True,
        n_startup_trials=STARTUP_TRIALS,
        seed=seed,
    )


def encode_branch(branch: Branch) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each path; values of a list are represented by their index."""
    return {path: _encode(distribution) for path, distribution in branch.items()}


def encode_value(distribution: ParamDistribution, value: Any) -> float | int | None:
    """A value as Optuna's parameter; None where the distribution does not have it."""
    if not distribution.contains(value):
        return None
    if distribution.values:
        return next(index for index, known in enumerate(_list_values(distribution)) if is_same_value(known, value))
    return int(value) if distribution.integer else float(value)


def count_points(branch: Branch) -> float:
    """Return the number of settings of a branch; infinite for a continuous parameter."""
    return math.prod(map(_size, branch.values()))


def _sample_settings(
    study: Study, space: dict[str, BaseDistribution], branch: Branch, accept: Callable[[Mapping[str, Any]], bool]
) -> dict[str, Any] | None:
    from optuna.trial import TrialState

    for _ in range(_ATTEMPTS):
        trial = study.ask(space)
        settings = {path: _decode(branch[path], trial.params[path]) for path in branch}
        if accept(settings):
            return settings
        study.tell(trial, state=TrialState.FAIL)
    return None


def _freeze(params: dict[str, Any], space: dict[str, BaseDistribution], observation: TrialObservation) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    state = TrialState.COMPLETE if observation.whole else TrialState.PRUNED
    known = observation.rung >= 0
    return create_trial(
        params=params,
        distributions=space,
        state=state,
        value=observation.value if observation.whole else None,
        intermediate_values={observation.rung: observation.value} if known else {},
    )


def _encode(distribution: ParamDistribution) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if distribution.values and _is_ordered(distribution):
        return IntDistribution(0, len(distribution.values) - 1)
    if distribution.values:
        return CategoricalDistribution(tuple(range(len(distribution.values))))
    if distribution.integer:
        return IntDistribution(int(distribution.low), int(distribution.high), log=distribution.log)
    return FloatDistribution(distribution.low, distribution.high, log=distribution.log)


def _decode(distribution: ParamDistribution, parameter: float | int) -> Any:
    return _list_values(distribution)[int(parameter)] if distribution.values else parameter


def _is_ordered(distribution: ParamDistribution) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in distribution.values)


def _list_values(distribution: ParamDistribution) -> Sequence[Any]:
    return sorted(distribution.values) if _is_ordered(distribution) else distribution.values


def _size(distribution: ParamDistribution) -> float:
    if distribution.values:
        return len(distribution.values)
    if distribution.integer:
        return distribution.high - distribution.low + 1
    return math.inf


def _iterate_points(branch: Branch, seed: int) -> Iterator[dict[str, Any]]:
    """The points of a finite branch in an order drawn by the seed; none of one that has too many."""
    if count_points(branch) > _LISTED:
        return
    axes = [_axis(distribution) for distribution in branch.values()]
    points = list(itertools.product(*axes))
    random.Random(seed).shuffle(points)
    for point in points:
        yield dict(zip(branch, point, strict=True))


def _axis(distribution: ParamDistribution) -> Sequence[Any]:
    if distribution.values:
        return distribution.values
    return range(int(distribution.low), int(distribution.high) + 1)
