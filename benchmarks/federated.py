"""Federated tuning against pooled tuning, and what masks and messages cost.

    python benchmarks/federated.py [--quick] [--model FOLDER] [--only masks|pooled|simulation]

Ten equal sites and one pooled training see the same tickets as often, with a tiny model made on the spot; both answer
the same held-out tickets. Simulated sites have eight rows each, and train one step over a tiny model or over FOLDER.
Masks are measured on as many numbers as LoRA of rank 16 has in B in SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SITES = 10
FFA_NUMBERS = 2_600_000
"""About the numbers of B, rank 16, in SmolLM2-135M."""


def print_figure(figure: str, value: float, goal: str, unit: str) -> None:
    """One JSON line."""
    device = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
    print(json.dumps({"figure": figure, "value": value, "goal": goal, "unit": unit, "device": device}), flush=True)


def measure_masks(sites: int, numbers: int) -> None:
    """Sum, error and seconds of masks."""
    import numpy
    import torch

    from luthier.federated.keys import FederationIdentity
    from luthier.federated.masks import MaskSettings, PairMasks, decode_sum, encode_update

    keys = [FederationIdentity.create(f"site-{at}") for at in range(sites)]
    settings, small = MaskSettings(), 20_000
    updates = [{"b": torch.randn(small, generator=torch.Generator().manual_seed(at))} for at in range(sites)]
    encoded = [encode_update(one, 100 + at, 1.0, settings, sites) for at, one in enumerate(updates)]
    masks = [PairMasks(own, [other.card for other in keys if other is not own]) for own in keys]
    masked = [mask.mask(one, "ab" * 16, 1, "digest") for mask, one in zip(masks, encoded, strict=True)]
    total = sum(masked[1:], masked[0])
    print_figure("masked_sum_apart", int((total != sum(encoded[1:], encoded[0])).sum()), "0", "units")
    found = decode_sum(total, {"b": updates[0]["b"].double()}, settings, sites)
    right = sum((100 + at) * one["b"].double() for at, one in enumerate(updates)) / found.rows
    error = float((found.weights["b"] - right).abs().max()) / settings.bound
    print_figure("decoding_error", error, f"<= {2.0**-40:.3g}", "of the bound")
    started = time.perf_counter()
    masks[0].mask(numpy.zeros(numbers, numpy.uint64), "ab" * 16, 1, "digest")
    each = (time.perf_counter() - started) / (sites - 1)
    print_figure("mask_seconds_at_100_sites", round(99 * each, 2), "<= 3 % of a round's training", "s")


def compare_with_pooled(rounds: int, rows: int) -> None:
    """Ten equal sites by `ffa` and by full weights against one training on all rows."""
    from scipy.stats import binomtest

    from federations import TRAINING, build_sites
    from luthier.eval.evaluator import TUNED
    from luthier.eval.predictions import read_answers
    from luthier.eval.steps.evaluate import Evaluate
    from luthier.federated.measure import describe_folder
    from luthier.tune.steps.tune import Tune
    from tuning import examples

    every = examples(SITES * rows + 200)
    held_out, training = every[-200:], every[:-200]
    parts = {f"site{at}": training[at::SITES] for at in range(SITES)} | {"pooled": training, "held_out": held_out}
    with tempfile.TemporaryDirectory() as name:
        sites = build_sites(Path(name), parts)
        technique, objective = {"kind": "full"}, {"kind": "classify"}
        settings = {"technique": technique, "objective": objective, "learning_rate": 3e-3}

        def answers(model: Any) -> list[bool]:
            folder = Path(name) / f"answers-{model.digest[:8]}"
            folder.mkdir()
            work = sites.work(sites.step(["site0"]), digest="ee" * 16)
            step = Evaluate(
                data="data", model="model", metrics=None, split="train", baselines=(), tasks=(), compare_base=False
            )
            inputs = {"data": sites.data["held_out"], "model": model}
            step.make(type(work)(name="e", inputs=inputs, folder=folder, scratch=folder, recipe_dir=folder, kept=None))
            _, found = read_answers(describe_folder(folder, model.digest, "evaluate", "evaluation", {}), TUNED)
            return [one in two for one, two in zip(found.predictions, found.references, strict=True)]

        started = time.perf_counter()
        names = [f"site{at}" for at in range(SITES)]
        federated = sites.federate(sites.step(names, rounds=rounds, sum="mean", tune=settings, local={"epochs": 1}))
        print(f"  ten sites: {time.perf_counter() - started:.0f} s", flush=True)
        pooled = sites.tune(
            Tune.model_validate({"data": "data", "epochs": rounds, **TRAINING, **settings, "batch_size": 40}), "pooled"
        )
        one, other = answers(federated), answers(pooled)
        sent = federated.read_json("federation.json")["rounds"][0]
        numbers = federated.read_json("training.json")["trainable_parameters"]
    better = sum(a and not b for a, b in zip(one, other, strict=True))
    worse = sum(b and not a for a, b in zip(one, other, strict=True))
    print(f"  accuracy {sum(one) / len(one):.3f} at ten sites, {sum(other) / len(other):.3f} pooled", flush=True)
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    print_figure("ten_sites_less_pooled_accuracy", round((sum(one) - sum(other)) / len(one), 4), "not less", "share")
    print_figure("p_of_that_difference", round(float(p), 3), "> 0.05", "McNemar, exact")
    print_figure("bytes_of_an_update", round(sent["up_bytes"] / (4 * numbers), 3), "<= 1.05", "of 4 bytes a number")


def measure_simulation(number: int, model: Path | None) -> None:
    """Simulated sites of eight rows, one round of one step each: what all of it takes beside the steps alone, and its
    memory beside that of two sites."""
    task = json.dumps({"number": number, "model": str(model) if model else None})
    found = []
    for sites in (2, number):
        command = [sys.executable, __file__, "--simulate", json.dumps({**json.loads(task), "number": sites})]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    few, many = found
    name = "a tiny model" if model is None else model.name
    print(
        f"  {number} sites over {name}: {many['cpu_s']:.0f} CPU-s, {many['steps_s']:.0f} of them in steps", flush=True
    )
    print_figure("simulation_time", round(many["cpu_s"] / many["steps_s"], 3), "<= 1.1", "of the sites' training")
    print_figure("simulation_memory", round(many["bytes"] / few["bytes"], 3), "<= 1.1", "of that of two sites")


def simulate(task: dict[str, Any]) -> None:
    """One simulation, in a process of its own: CPU-seconds in all and in trainings, and the peak of memory."""
    from federations import build_sites
    from luthier.core.artifact import Artifact
    from luthier.federated.measure import describe_folder
    from luthier.tune.training.trainer import Trainer
    from tuning import examples

    spent, run = [0.0], Trainer.run

    def timed(self: Any, *given: Any, **named: Any) -> Any:
        started = time.process_time()
        result = run(self, *given, **named)
        spent[0] += time.process_time() - started
        return result

    Trainer.run = timed  # type: ignore[method-assign]
    number = task["number"]
    with tempfile.TemporaryDirectory() as name:
        sites = build_sites(Path(name), {"all": examples(number * 8)})
        if task["model"] is not None:
            base: Artifact = describe_folder(Path(task["model"]), "b" * 32, "base", "model", {})
            sites.base = base
        settings = {"batch_size": 8, "technique": {"kind": "lora", "r": 16}}
        step = sites.step(["all"], partition={"number": number}, rounds=1, sum="ffa", local={"steps": 1}, tune=settings)
        work = sites.work(step)
        started = time.process_time()
        step.make(work)
        whole = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cpu_s": whole, "steps_s": spent[0], "bytes": peak}))


def main() -> None:
    """Measure, and print one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds of fewer rows, and fewer numbers")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder to simulate sites over, beside a tiny model")
    parser.add_argument("--only", choices=("masks", "pooled", "simulation"), help="one part alone")
    parser.add_argument("--simulate", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.simulate is not None:
        simulate(given.simulate)
        return
    quick, only = given.quick, given.only
    if only in (None, "simulation"):
        print("simulated sites", flush=True)
        measure_simulation(100 if quick else 1000, None)
        if given.model is not None:
            measure_simulation(10 if quick else 50, given.model)
    if only == "simulation":
        return
    if only in (None, "masks"):
        print("masks", flush=True)
        measure_masks(SITES, FFA_NUMBERS // (10 if quick else 1))
    if only == "masks":
        return
    print("ten equal sites against pooled tuning", flush=True)
    compare_with_pooled(rounds=3 if quick else 6, rows=12 if quick else 24)


if __name__ == "__main__":
    main()
