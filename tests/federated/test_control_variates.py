"""Control variates equal a written-out SCAFFOLD, and lead to the optimum that plain local steps miss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import load_file

from federations import Sites, build_sites
from luthier.core.errors import LuthierError
from luthier.core.hashing import digest_of
from luthier.federated.control_variates import SiteVariates, add_variates, move_shared, split_variates
from luthier.federated.messaging.messages import FederationMessage, RoundStart, RoundUpdate
from luthier.federated.partition import PartitionSettings, partition_rows
from luthier.federated.sites.state import SiteState
from luthier.federated.sites.worker import SiteWorker
from luthier.federated.weight_holder import WeightHolder
from luthier.tune.optimizers.sgd import Sgd
from luthier.tune.training.gradient_pull import ControlVariatePull
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer, OptimizerSettings
from tuning import examples

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


PLAIN_SGD: dict[str, Any] = {
    "optimizer": {"kind": "sgd", "momentum": 0.0},
    "max_grad_norm": None,
    "lr_scheduler": "constant",
    "warmup_ratio": 0.0,
    "learning_rate": 0.5,
}
RATE, STEPS = 0.5, 2


def listen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, FederationMessage, FederationMessage]]:
    """What each site was asked and answered in each round."""
    heard: list[tuple[str, FederationMessage, FederationMessage]] = []
    answer = SiteWorker.answer

    def hearing(self: SiteWorker, number: int, content: bytes) -> bytes:
        reply = answer(self, number, content)
        if content.find(b'"kind": "round"') > 0:
            heard.append(
                (self.name, FederationMessage.decode(content, RoundStart), FederationMessage.decode(reply, RoundUpdate))
            )
        return reply

    monkeypatch.setattr(SiteWorker, "answer", hearing)
    return heard


def test_a_federation_keeps_to_the_papers_algorithm(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = listen(monkeypatch)
    step = sites.step(
        rounds=4, sum="ffa", sites_per_round=2, control_variates=True, local={"steps": STEPS}, tune=PLAIN_SGD
    )
    made = sites.federate(step)
    rows = {"north": 24, "south": 16, "west": 8}
    own: dict[str, dict[str, torch.Tensor]] = {name: {} for name in rows}
    shared: dict[str, torch.Tensor] = {}
    assert len(heard) == 8
    for number in range(1, 5):
        asked = [entry for entry in heard if entry[1].header.round == number]
        given, c = split_variates(asked[0][1].tensors)
        for name, value in c.items():
            torch.testing.assert_close(value, shared.get(name, torch.zeros_like(value)), atol=1e-6, rtol=1e-4)
        before = {key: value.clone() for key, value in c.items()}
        shared = {key: value.double() for key, value in before.items()}
        for site, _, update in asked:
            trained, changes = split_variates(update.tensors)
            for name, value in trained.items():
                old = own[site].get(name, torch.zeros_like(value))
                after = old - before[name] + (given[f"weight/{name}"] - value) / (RATE * STEPS)  # Option II
                torch.testing.assert_close(changes[name], after - old, atol=1e-5, rtol=1e-3)
                own[site][name] = old + changes[name]
                shared[name] += changes[name].double() * rows[site] / sum(rows.values())
        shared = {name: value.float() for name, value in shared.items()}
    assert max(float(value.abs().max()) for value in shared.values()) > 1e-4
    assert {name for entry in made.read_json("federation.json")["rounds"] for name in entry["sites"]} == set(rows)


def test_they_correct_the_gradients(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = listen(monkeypatch)
    settings = {"rounds": 2, "sum": "ffa", "local": {"steps": 1}, "tune": PLAIN_SGD}
    sites.federate(sites.step(control_variates=True, **settings))
    corrected = {(name, start.header.round): (start, update) for name, start, update in heard}
    heard.clear()
    sites.federate(sites.step(**settings))
    plain = {(name, start.header.round): (start, update) for name, start, update in heard}
    for site in sites.data:
        start, update = corrected[site, 2]
        given, c = split_variates(start.tensors)
        _, own = split_variates(corrected[site, 1][1].tensors)
        trained, _ = split_variates(update.tensors)
        for name, value in plain[site, 2][0].tensors.items():
            assert torch.equal(value, given[name]), "one step in a round is not corrected yet"
        for name, value in plain[site, 2][1].tensors.items():
            torch.testing.assert_close(trained[name], value - RATE * (c[name] - own[name]), atol=1e-6, rtol=1e-4)


def files(artifact: Any) -> dict[str, str]:
    return {entry.path: entry.digest for entry in artifact.manifest.files if "adapter_model" in entry.path}


@pytest.mark.matrix("alternate")
@pytest.mark.parametrize("aggregator", ["ffa", "alternate", "factors"])
def test_sums_and_kills_make_the_same_bytes(fresh: Sites, monkeypatch: pytest.MonkeyPatch, aggregator: str) -> None:
    common: dict[str, Any] = {"rounds": 3, "sum": aggregator, "local": {"steps": 1}}
    step = fresh.step(control_variates=True, **common)
    whole = files(fresh.federate(step, digest="a" * 32))
    assert whole != files(fresh.federate(fresh.step(**common), digest="c" * 32))
    keep, count = SiteWorker._keep, 0

    def dying(self: SiteWorker, number: int, digest: str, reply: bytes) -> None:
        nonlocal count
        count += 1
        if count in (8, 11):  # within rounds 2 and 3, after the state of a site was kept and before its answer was
            raise KeyboardInterrupt
        keep(self, number, digest, reply)

    monkeypatch.setattr(SiteWorker, "_keep", dying)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fresh.federate(step, digest="b" * 32)
    assert files(fresh.federate(step, digest="b" * 32)) == whole


def test_they_travel_under_masks(tmp_path: Path) -> None:
    rows = examples(32)
    four = build_sites(tmp_path, {name: rows[8 * at : 8 * at + 8] for at, name in enumerate("abcd")})
    common: dict[str, Any] = {"rounds": 2, "sum": "ffa", "control_variates": True, "local": {"steps": 2}}
    plain = load_file(four.federate(four.step("abcd", **common)).path("adapter/adapter_model.safetensors"))
    for settings in ({}, {"least": 3}):
        made = four.federate(four.step("abcd", secure={}, **common, **settings))
        for name, value in load_file(made.path("adapter/adapter_model.safetensors")).items():
            torch.testing.assert_close(value, plain[name], atol=1e-5, rtol=1e-4)


def test_simulated_sites_make_the_bytes_of_real_ones(tmp_path: Path) -> None:
    rows = examples(18)
    plain = build_sites(tmp_path / "plain", {"all": rows})
    parts = partition_rows(PartitionSettings(number=3), plain.data["all"], 5)
    real = build_sites(tmp_path / "real", {name: [rows[at] for at in places] for name, places in parts.items()})
    common: dict[str, Any] = {"sum": "ffa", "control_variates": True, "sites_per_round": 2, "rounds": 3}
    made = plain.federate(plain.step(["all"], partition={"number": 3}, **common), seed=5)
    assert files(made) == files(real.federate(real.step(list(parts), **common), seed=5))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"sum": "stack"}, "stack begins anew in each round"),
        ({"sum": "ffa", "robust": "median"}, "one poisoned site moves"),
        ({"sum": "ffa", "privacy": {"epsilon": 4, "unit": "site"}}, "covers updates of weights alone"),
        ({"sum": "ffa", "rounds": 1}, "change nothing in one round"),
    ],
)
def test_where_they_cannot_be_they_are_refused(sites: Sites, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        sites.step(control_variates=True, **settings)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda header, variates: (header, {}), "the coordinator sends other weights than were asked for"),
        (
            lambda header, variates: (header, {name: value + 1 for name, value in variates.items()}),
            "control variates that are not zero in the first round",
        ),
        (
            lambda header, variates: (header.model_copy(update={"counted": [0]}), variates),
            "round 1 tells what was counted of 1 sites alone",
        ),
        (
            lambda header, variates: (header.model_copy(update={"counted": [1, 1, 1]}), variates),
            "counts an update of round 1, which this site did not send",
        ),
    ],
    ids=["none", "chosen", "too few", "false"],
)
def test_a_site_refuses_what_was_not_agreed(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, change: Any, match: str
) -> None:
    encode = FederationMessage.encode

    def lying(self: FederationMessage) -> bytes:
        if isinstance(self.header, RoundStart):
            weights, variates = split_variates(self.tensors)
            header, variates = change(self.header, variates)
            return encode(FederationMessage(header, add_variates(weights, variates)))
        return encode(self)

    monkeypatch.setattr(FederationMessage, "encode", lying)
    with pytest.raises(LuthierError, match=match):
        sites.federate(
            sites.step(sum="ffa", control_variates=True), digest=digest_of(["lying", request.node.callspec.id])
        )
