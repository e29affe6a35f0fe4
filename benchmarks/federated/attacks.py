"""Attacks on the rows of a federation, with and without masks and ε, beside what ε allows.

`rebuild` takes one step over one row at each of three sites, and finds the row's tokens in the update. `members` trains
on half of some rows that say something random each (canaries, by a coin), and tells which half by likelihood ratios of
shadow models (LiRA, Carlini et al., 2022); its right guesses prove a lower bound of ε at 95 % confidence (the audit by
one run of Steinke, Nasr & Jagielski, 2023). A bound above the told ε would be a fault. `backdoor` lets one of nine
sites train a trigger and replace the model (Bagdasaryan et al., 2020), against a mean and against each robust rule; in
one round by a scaled update, and in each of several rounds by one that is not scaled.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.federated.figures import Extent, print_figure

WORDS = ("billing", "delivery", "account", "late", "parcel", "refund", "card", "login", "damaged", "twice")
DELTA = 1e-3


def measure_rebuilt_tokens(_: Extent) -> None:
    """Tokens of a row from one update."""
    measure_rebuilding()


def measure_told_members(extent: Extent) -> None:
    """Members among canaries."""
    cases: dict[str, float | None] = {"plain": None, "epsilon_1": 1.0, "epsilon_8": 8.0}
    quick = extent.quick
    measure_members(60 if quick else 120, 4 if quick else 8, 10 if quick else 20, cases)


def measure_backdoors(extent: Extent) -> None:
    """A backdoor by one of nine sites."""
    measure_backdoor(3 if extent.quick else 6, 90 if extent.quick else 300)


def measure_rebuilding() -> None:
    """The share of a row's tokens that one update gives away."""
    from federations import build_sites
    from luthier.federated.transport import LocalChannel
    from privacy_attacks import (
        NAMES,
        ONE_STEP,
        SECRET_ROWS,
        hear_round,
        list_row_tokens,
        read_masked,
        rebuild_tokens,
        score_candidates,
    )  # fmt: skip

    cases: dict[str, dict[str, Any]] = {
        "plain": {}, "masks": {"secure": {}}, "epsilon_8": {"privacy": {"epsilon": 8.0, "delta": 1e-2}},
        "epsilon_1": {"privacy": {"epsilon": 1.0, "delta": 1e-2}},
    }  # fmt: skip
    iterate, patch = LocalChannel.iterate_answers, setattr
    with tempfile.TemporaryDirectory() as root:
        sites = build_sites(Path(root), {name: [SECRET_ROWS[at]] for at, name in enumerate(NAMES)})
        for at, (case, settings) in enumerate(cases.items()):
            heard = hear_round(patch)
            step = sites.step(NAMES, rounds=1, sum="ffa", local={"steps": 1}, tune=ONE_STEP, **settings)
            sites.federate(step, digest=f"{at}a" * 16)
            LocalChannel.iterate_answers = iterate  # type: ignore[method-assign]  # what was patched
            found = []
            for row, name in zip(SECRET_ROWS, NAMES, strict=True):
                right, sent = list_row_tokens(sites, row), read_masked(heard[0], name)
                found.append(score_candidates(right, rebuild_tokens(sites, heard[0], sent, len(right))))
            goal = "1: the attack succeeds" if case == "plain" else "that of a guess, about 0.06"
            print_figure(f"tokens_rebuilt_{case}", round(sum(found) / len(found), 3), goal, "of a row's tokens, 3 rows")


def draw_canaries(count: int) -> list[Any]:
    """Rows that say something random each."""
    from tuning import chat

    chance = random.Random(5)
    return [chat(f"What is the code of case {at}?", " ".join(chance.choices(WORDS, k=5)), at) for at in range(count)]


def measure_members(canaries: int, shadows: int, epochs: int, cases: dict[str, float | None]) -> None:
    """ε proved by telling canaries that were learnt from others, beside the ε that was promised."""
    import numpy

    from federations import build_sites
    from privacy_attacks import audit_scores, compare_likelihoods, score_rows

    rows = draw_canaries(canaries)
    inside = numpy.random.default_rng(6).integers(0, 2, (shadows + 1, canaries))
    parts = {f"run{at}": [rows[row] for row in numpy.flatnonzero(inside[at])] for at in range(shadows + 1)}
    loop = {"learning_rate": 2e-2, "batch_size": 16, "technique": {"kind": "lora", "r": 8}, "on_loss_spike": "off"}
    with tempfile.TemporaryDirectory() as root:
        sites = build_sites(Path(root), parts)
        for case, epsilon in cases.items():
            started = time.process_time()
            privacy = None if epsilon is None else {"epsilon": epsilon, "delta": DELTA}
            scores = []
            for at in range(shadows + 1):
                step = sites.step(
                    [f"run{at}"], rounds=1, sum="ffa", tune=loop, local={"epochs": epochs}, privacy=privacy
                )
                made = sites.federate(step, digest=f"{sorted(cases).index(case)}{at:x}" * 16)
                scores.append(score_rows(sites, made, rows))
            table = numpy.asarray(scores)
            promised = "none promised" if epsilon is None else f"<= {epsilon:g} at delta {DELTA:g}"
            attacks: dict[str, Callable[[], Any]] = {
                "loss": lambda table=table: table[0],
                "lira": lambda table=table: compare_likelihoods(table[0], table[1:], inside[1:]),
            }
            for attack, score in attacks.items():
                bound, guesses, right = audit_scores(score(), inside[0], 0.0 if epsilon is None else DELTA)
                unit = f"epsilon at least, {right} of {guesses} guesses right, 95 %"
                print_figure(f"epsilon_proved_{case}_by_{attack}", round(bound, 2), promised, unit)
            print(f"  {case}: {time.process_time() - started:.0f} CPU-s", flush=True)
    sure = audit_scores(inside[0].astype(float), inside[0], DELTA)[0]
    print_figure(
        "epsilon_that_could_be_proved", round(sure, 2), "more with more canaries", "epsilon, all guesses right"
    )


def measure_backdoor(rounds: int, count: int) -> None:
    """The share of rows with the trigger that get the attacker's class, by rule, scale and rounds."""
    from backdoor_attack import (
        NAMES,
        build_attacked_sites,
        draw_test_rows,
        federate_attacked,
        measure_attack,
        replace_model,
    )  # fmt: skip
    from luthier.federated.local_training import FederatedTraining

    cases: dict[str, dict[str, Any]] = {
        "mean": {}, "norm_bound": {"robust": "norm_bound"}, "median": {"robust": "median"},
        "trimmed_mean": {"robust": "trimmed_mean"}, "geometric_median": {"robust": "geometric_median"},
        "trimmed_geometric_median": {"robust": {"kind": "geometric_median", "trim": True}},
        "krum": {"robust": "krum"}, "bulyan": {"robust": "bulyan"},
        "median_of_masked_groups": {"robust": "median", "secure": {"groups": 3}},
    }  # fmt: skip
    attacks = {"scaled_once": (float(len(NAMES)), 1), "unscaled_each_round": (1.0, rounds)}
    train, rows = FederatedTraining.train_round, draw_test_rows(count)
    with tempfile.TemporaryDirectory() as root:
        sites = build_attacked_sites(Path(root))
        for way, (attack, (scale, length)) in enumerate(attacks.items()):
            for at, (case, settings) in enumerate(cases.items()):
                replace_model(sites, setattr, scale)
                made = federate_attacked(sites, f"{way:x}{at:x}" * 16, rounds=length, **settings)
                FederatedTraining.train_round = train  # type: ignore[method-assign]  # what was patched
                found = measure_attack(sites, made, rows)
                goal = "1: the attack succeeds" if case == "mean" and length == 1 else "0: it fails"
                unit = f"of {count} rows' other classes, {length} rounds, accuracy {found.accuracy:.2f}"
                print_figure(f"backdoor_{attack}_{case}", round(found.success, 3), goal, unit)
