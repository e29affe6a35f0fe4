"""Sums, servers' optimizers and robust rules make the weights that Flower's strategies make of the same updates.

Flower has an environment of its own, named by `LUTHIER_FLOWER_ENV`: its pins exclude ours.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from federations import Sites, build_sites
from luthier.federated.local_training import FederatedTraining, SiteUpdate
from tuning import examples

SCRIPT = Path(__file__).parent / "flower_strategies.py"
ROUNDS = 4
NAMES = [f"site{at}" for at in range(11)]
UNEQUAL = [2, 3, 4]
DRAW = 45
"""Of the five sites that Bulyan has left at its last pick, two are each other's nearest: Flower takes the first, we the
one that is nearer to all. In this draw they are the same."""
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "mean": ({}, "FedAvg", {}),
    "sgd": (
        {"server": {"kind": "sgd", "momentum": 0.9}, "server_learning_rate": 0.5},
        "FedAvgM", {"server_momentum": 0.9, "server_learning_rate": 0.5},
    ),
    "adamw": (
        {"server": {"kind": "adamw", "betas": [0.9, 0.99]}}, "FedAdam", {"eta": 0.01, "tau": 1e-8, "beta_2": 0.99}
    ),
    "yogi": ({"server": "yogi"}, "FedYogi", {}),
    "median": ({"robust": "median"}, "FedMedian", {}),
    "trimmed_mean": ({"robust": {"kind": "trimmed_mean", "poisoned": 2}}, "FedTrimmedAvg", {"beta": 2 / 11 + 1e-9}),
    "krum": ({"robust": {"kind": "krum", "poisoned": 2, "keep": 1}}, "Krum", {"num_malicious_nodes": 2}),
    "multi_krum": (
        {"robust": {"kind": "krum", "poisoned": 2}}, "MultiKrum",
        {"num_malicious_nodes": 2, "num_nodes_to_select": 9},
    ),
    "bulyan": ({"robust": {"kind": "bulyan", "poisoned": 2}}, "IteratedBulyan", {"num_malicious_nodes": 2}),
}  # fmt: skip


@pytest.fixture(scope="module")
def python() -> str:
    path = Path(os.environ.get("LUTHIER_FLOWER_ENV", "missing")) / "bin" / "python"
    if not path.exists():
        pytest.skip("Flower has an environment of its own: install flwr there, and set LUTHIER_FLOWER_ENV to it")
    return str(path.absolute())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    rows = examples(4 * len(NAMES))
    equal = {name: rows[at :: len(NAMES)] for at, name in enumerate(NAMES)}
    unequal = {f"part{at}": rows[:number] for at, number in enumerate(UNEQUAL)}
    return build_sites(tmp_path_factory.mktemp("many"), equal | unequal)


def draw_update(site: int, number: int, name: str, value: Tensor) -> Tensor:
    """What a site adds in a round; two sites send something else."""
    chance = torch.Generator().manual_seed(DRAW + 1000 * site + 10 * number + len(name))
    change = 0.1 + 0.1 * torch.randn(value.shape, generator=chance)
    return change * {2: 30.0, 5: -8.0}.get(site, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_flowers_strategy(
    case: str, many: Sites, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, strategy, flowers = CASES[case]
    names = NAMES if "robust" in settings else [f"part{at}" for at in range(len(UNEQUAL))]
    given: dict[int, dict[str, Tensor]] = {}
    rows = [4] * len(NAMES) if "robust" in settings else UNEQUAL

    def training(self: Any, weights: Any, number: int, *rest: Any) -> SiteUpdate:
        site = names.index(self._work.scratch.parent.name)
        moving = {name: value for name, value in weights.moving.items() if "lora_B" in name}
        given[number] = moving
        moved = {name: value + draw_update(site, number + 1, name, value) for name, value in moving.items()}
        return SiteUpdate(moved, rows[site], 1, 1.0)

    monkeypatch.setattr(FederatedTraining, "train_round", training)
    many.federate(many.step(names, rounds=ROUNDS + 1, sum="ffa", local={"epochs": 8}, **settings))
    task = {"strategy": strategy, "settings": flowers, "rows": rows, "rounds": ROUNDS}
    arrays = {f"start/{name}": value.numpy() for name, value in given[0].items()}
    for number in range(1, ROUNDS + 1):
        for site in range(len(names)):
            for name, value in given[0].items():
                arrays[f"update/{number}/{site}/{name}"] = draw_update(site, number, name, value).numpy()
    numpy.savez(tmp_path / "given.npz", task=json.dumps(task), **arrays)
    words = [python, str(SCRIPT), str(tmp_path / "given.npz"), str(tmp_path / "found.npz")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(words, check=True, capture_output=True, timeout=300, env=environment)
    found = numpy.load(tmp_path / "found.npz")
    for number in range(1, ROUNDS + 1):
        for name, value in given[number].items():
            torch.testing.assert_close(value, torch.from_numpy(found[f"{number}/{name}"]).float(), rtol=2e-5, atol=2e-6)
