"""Control variates equal a written-out SCAFFOLD, and lead to the optimum that plain local steps miss."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from numpy.typing import NDArray

from luthier.core.errors import LuthierError
from luthier.federated.control_variates import SiteVariates, move_shared
from luthier.federated.holder import WeightHolder
from luthier.federated.site_state import SiteState
from luthier.tune.optimizers.sgd import Sgd
from luthier.tune.training.gradient_pull import ControlVariatePull
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer, OptimizerSettings

NAME, SIZE, SITES = "w", 6, 4
ROWS = [3, 9, 5, 7]


class Quadratic:
    """Sites with different quadratic losses, weighed by rows."""

    def __init__(self, seed: int) -> None:
        chance = numpy.random.default_rng(seed)
        self.curvature = chance.uniform(0.2, 3.0, (SITES, SIZE))
        self.centre = chance.normal(0.0, 3.0, (SITES, SIZE))
        shares = numpy.array(ROWS)[:, None] / sum(ROWS)
        self.optimum = (shares * self.curvature * self.centre).sum(0) / (shares * self.curvature).sum(0)

    def gradient(self, site: int, at: NDArray[Any]) -> NDArray[Any]:
        """Of one site's loss."""
        found: NDArray[Any] = self.curvature[site] * (at - self.centre[site])
        return found


def scaffold(problem: Quadratic, rounds: list[list[int]], rates: list[float]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Algorithm 1 of Karimireddy et al. with Option II, in NumPy; the mean over sites is weighed by rows."""
    x, c, own = numpy.zeros(SIZE), numpy.zeros(SIZE), numpy.zeros((SITES, SIZE))
    for sites in rounds:
        moved, changes = [], []
        for site in sites:
            y = x.copy()
            for rate in rates:
                y -= rate * (problem.gradient(site, y) - own[site] + c)
            after = own[site] - c + (x - y) / sum(rates)
            moved.append(y)
            changes.append(after - own[site])
            own[site] = after
        weights = numpy.array([ROWS[site] for site in sites])[:, None]
        x = (weights * moved).sum(0) / weights.sum()
        c = c + (weights * changes).sum(0) / sum(ROWS)
    return x, c


def federate(
    problem: Quadratic, rounds: list[list[int]], rates: list[float], states: list[SiteState], variates: bool = True
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same by the parts that sites and coordinator use."""
    weights = torch.zeros(SIZE, dtype=torch.float64)
    shared = {NAME: torch.zeros(SIZE, dtype=torch.float64)}
    counted = [0] * SITES
    for number, sites in enumerate(rounds, start=1):
        total, mean_change, rows = torch.zeros_like(weights), torch.zeros_like(weights), sum(ROWS[at] for at in sites)
        for site in sites:
            holder = WeightHolder({NAME: weights})
            updater = MixedPrecisionOptimizer(holder, OptimizerSettings(optimizer=Sgd(momentum=0.0), clip=None))
            own = SiteVariates(states[site].read(number), counted[site], shared) if variates else None
            updater.start_from({NAME: weights}, [own.pull] if own else [])
            for rate in rates:
                at = updater.weights()[NAME].numpy()
                updater.gather([torch.from_numpy(problem.gradient(site, at))])
                updater.update(rate, 0.0)
            moved = updater.weights()
            total += moved[NAME] * ROWS[site] / rows
            if own:
                changes = own.find_changes(moved)
                states[site].write(number, own.dump(changes))
                mean_change += changes[NAME] * ROWS[site] / rows
        weights, shared = total, move_shared(shared, {NAME: mean_change}, rows, sum(ROWS))
        for site in sites:
            counted[site] = number
    return weights.numpy(), shared[NAME].numpy()


@pytest.fixture
def states(tmp_path: Any) -> list[SiteState]:
    folders = [tmp_path / str(site) for site in range(SITES)]
    for folder in folders:
        folder.mkdir()
    return [SiteState(folder) for folder in folders]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("some", [False, True], ids=["all sites", "two of four"])
def test_rounds_equal_the_papers_algorithm(states: list[SiteState], seed: int, some: bool) -> None:
    chance = numpy.random.default_rng(seed)
    rounds = [sorted(chance.choice(SITES, 2 if some else SITES, replace=False).tolist()) for _ in range(12)]
    rates = [0.1, 0.07, 0.04]
    problem = Quadratic(seed)
    found, shared = federate(problem, rounds, rates, states)
    right, control = scaffold(problem, rounds, rates)
    numpy.testing.assert_allclose(found, right, rtol=0, atol=1e-12)
    numpy.testing.assert_allclose(shared, control, rtol=0, atol=1e-12)


def test_they_lead_to_the_optimum_that_local_steps_miss(states: list[SiteState]) -> None:
    problem, chance = Quadratic(5), numpy.random.default_rng(5)
    rounds = [sorted(chance.choice(SITES, 2, replace=False).tolist()) for _ in range(200)]
    rates = [0.1] * 5
    with_them, shared = federate(problem, rounds, rates, states)
    assert numpy.abs(with_them - problem.optimum).max() < 1e-6
    assert numpy.abs(shared).max() < 1e-6, "at the optimum all gradients together are none"
    every = [list(range(SITES))] * 200
    without, _ = federate(problem, every, rates, states, variates=False)
    assert numpy.abs(without - problem.optimum).max() > 0.05


def test_an_update_that_was_not_counted_changes_nothing(states: list[SiteState]) -> None:
    shared = {NAME: torch.zeros(2)}
    state = states[0]
    state.write(1, {f"control/own/{NAME}": torch.ones(2), f"control/next/{NAME}": torch.full((2,), 5.0)})
    for counted, own in ((0, 1.0), (1, 5.0)):
        variates = SiteVariates(state.read(2), counted, shared)
        assert variates.dump({NAME: torch.zeros(2)})[f"control/next/{NAME}"].tolist() == [own, own]
    with pytest.raises(LuthierError, match="counts an update of round 2, which this site did not send"):
        SiteVariates(state.read(2), 2, shared)


def test_a_resumed_training_ends_in_the_same_variate() -> None:
    shared = {NAME: torch.full((2,), 0.5)}

    def begin() -> tuple[MixedPrecisionOptimizer, ControlVariatePull]:
        pull = ControlVariatePull({}, shared)
        updater = MixedPrecisionOptimizer(
            WeightHolder({NAME: torch.zeros(2)}), OptimizerSettings(optimizer=Sgd(momentum=0.9), clip=1.0)
        )
        updater.start_from({NAME: torch.ones(2)}, [pull])
        return updater, pull

    def step(updater: MixedPrecisionOptimizer, at: int) -> None:
        updater.gather([torch.tensor([float(at), 1.0])])
        updater.update(0.1 / at, updater.norm())

    whole, pull = begin()
    for at in (1, 2, 3):
        step(whole, at)
        if at == 2:
            kept = {name: value.clone() for name, value in whole.state().items()}
    resumed, other = begin()
    resumed.restore(kept)
    step(resumed, 3)
    assert torch.equal(resumed.weights()[NAME], whole.weights()[NAME])
    assert torch.equal(other.mean_gradients()[NAME], pull.mean_gradients()[NAME])
