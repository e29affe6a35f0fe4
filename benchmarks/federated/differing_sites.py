"""Sites whose updates pull apart: poisoned ones against robust rules, and ones with few classes against FedProx's term
and SCAFFOLD's control variates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.federated.figures import SITES, Extent, answer_held_out, print_difference, print_figure


def measure_poisoned(extent: Extent) -> None:
    """Two of ten sites poisoned."""
    rules = ("krum",) if extent.quick else ("krum", "geometric_median", "geometric_median trim")
    compare_poisoned(rounds=3 if extent.quick else 6, rows=12 if extent.quick else 24, rules=rules)


def measure_drift(extent: Extent) -> None:
    """Sites that differ."""
    compare_drift(rounds=3 if extent.quick else 8, rows=12 if extent.quick else 24)


def compare_poisoned(rounds: int, rows: int, rules: tuple[str, ...]) -> None:
    """Ten sites, two of which send ten times their change turned round: accuracy by the mean and by robust rules."""
    from federations import build_sites
    from luthier.federated import local_training
    from tuning import examples

    every = examples(SITES * rows + 200)
    parts = {f"site{at}": every[:-200][at::SITES] for at in range(SITES)} | {"held_out": every[-200:]}
    trained, poisoned = local_training.FederatedTraining.train_round, {"site1", "site5"}
    attacking = False

    def training(self: Any, given: Any, *rest: Any) -> Any:
        update = trained(self, given, *rest)
        if not attacking or self._work.scratch.parent.name not in poisoned:
            return update
        turned = {
            name: given.moving[name] - 10 * (value - given.moving[name]) for name, value in update.weights.items()
        }
        return update._replace(weights=turned)

    local_training.FederatedTraining.train_round = training  # type: ignore[method-assign]  # the attack
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as root:
        sites = build_sites(Path(root), parts)
        tune = {"technique": {"kind": "full"}, "objective": {"kind": "classify"}, "learning_rate": 3e-3}
        names = [f"site{at}" for at in range(SITES)]
        for case in ("unpoisoned", "mean", *rules):
            attacking = case != "unpoisoned"
            kind, _, trim = case.partition(" ")
            robust = {"kind": kind, "poisoned": 2, **({"trim": True} if trim else {})} if case in rules else None
            step = sites.step(names, rounds=rounds, sum="mean", tune=tune, local={"epochs": 4}, robust=robust)
            right = answer_held_out(sites, sites.federate(step, digest=f"{len(found)}d" * 16))
            found[case] = sum(right) / len(right)
            print(f"  {case}: accuracy {found[case]:.3f}", flush=True)
    local_training.FederatedTraining.train_round = trained  # type: ignore[method-assign]
    for case in ("mean", *rules):
        goal = "much lower" if case == "mean" else ">= -0.02"
        print_figure(
            f"two_of_ten_poisoned_{case.replace(' ', '_')}",
            round(found[case] - found["unpoisoned"], 4),
            goal,
            "accuracy",
        )


def compare_drift(rounds: int, rows: int) -> None:
    """Ten sites with few classes each and many local steps: accuracy of the plain mean, of FedProx's term and of
    SCAFFOLD's control variates, by AdamW and by SGD."""
    from federations import build_sites
    from tuning import examples

    every = examples(SITES * rows + 200)
    ways: dict[str, dict[str, Any]] = {
        "plain": {}, "proximal": {"proximal": 0.1}, "control_variates": {"control_variates": True}
    }  # fmt: skip
    optimizers = {"adamw": 3e-3, "sgd": 0.1}
    with tempfile.TemporaryDirectory() as root:
        sites = build_sites(Path(root), {"site0": every[:-200], "held_out": every[-200:]})
        for optimizer, rate in optimizers.items():
            found: dict[str, list[bool]] = {}
            for case, settings in ways.items():
                tune = {"technique": {"kind": "full"}, "objective": {"kind": "classify"}, "learning_rate": rate,
                        "optimizer": optimizer}  # fmt: skip
                step = sites.step(
                    ["site0"], rounds=rounds, sum="mean", tune=tune, local={"steps": 10},
                    partition={"number": SITES, "alpha": 0.05, "min_rows": 4}, **settings,
                )  # fmt: skip
                made = sites.federate(step, digest=f"{list(optimizers).index(optimizer)}{len(found)}" * 16)
                found[case] = answer_held_out(sites, made)
                print(f"  {optimizer}, {case}: accuracy {sum(found[case]) / len(found[case]):.3f}", flush=True)
            for case in ("proximal", "control_variates"):
                print_difference(f"dirichlet_0.05_{optimizer}_{case}_less_plain", "> 0", found[case], found["plain"])
