"""Federated tuning against pooled tuning, and what masks and messages cost.

    python benchmarks/federated.py [--quick] [--model FOLDER] [--only masks|pooled|simulation|personal]

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


def measure_dropouts(sites: int, lost: int, numbers: int) -> None:
    """A masked round of many sites, some of which are lost between their shares and their numbers: what one site and
    the coordinator compute, scaled up to the numbers of B."""
    import numpy

    from luthier.federated.dropout_masks import DropoutMasks, MaskRound, RevealedShares, find_least, unmask_sum
    from luthier.federated.keys import FederationIdentity

    identities = {own.card.fingerprint: own for own in (FederationIdentity.create(f"s{at}") for at in range(sites))}
    names = sorted(identities)
    about = MaskRound(federation="ab" * 16, round=1, digest="d", group=tuple(names), least=find_least(sites))
    chance = numpy.random.default_rng(1)
    with tempfile.TemporaryDirectory() as root:
        members = {}
        for name in names:
            folder = Path(root) / name
            folder.mkdir()
            peers = {other: identities[other].card for other in names if other != name}
            members[name] = DropoutMasks(identities[name], peers, folder)
        keys = {name: own.begin(about) for name, own in members.items()}
        started = time.process_time()
        shares = {name: own.share(keys) for name, own in members.items()}
        left = names[lost:]
        encoded = {name: chance.integers(0, 1 << 62, numbers, dtype=numpy.uint64) for name in left}
        masking = time.process_time()
        masked = {
            name: members[name].mask(
                encoded[name], {who: own[name] for who, own in shares.items() if name in own}, names
            )
            for name in left
        }
        masked_s = time.process_time() - masking
        signed = {name: members[name].sign_survivors(left) for name in left}
        revealed = RevealedShares()
        for name in left:
            seeds, own = members[name].reveal(signed)
            for owner, share in seeds.items():
                revealed.seeds.setdefault(owner, {})[name] = share
            for owner, share in own.items():
                revealed.masks.setdefault(owner, {})[name] = share
        each = (time.process_time() - started) / len(left)
        started = time.process_time()
        total = unmask_sum(sum(masked.values(), numpy.zeros(numbers, numpy.uint64)), about, keys, names, left, revealed)
        unmasked = time.process_time() - started
    apart = int((total != sum(encoded.values(), numpy.zeros(numbers, numpy.uint64))).sum())
    print_figure("dropout_sum_apart", apart, "0", f"units, {lost} of {sites} sites lost")
    scale = FFA_NUMBERS / numbers
    print_figure("dropout_site_fixed_seconds", round(each - masked_s / len(left), 2), "little", "CPU-s of a site, keys")
    print_figure(
        "dropout_site_seconds", round(masked_s / len(left) * scale, 2), "<= 3 % of a round", "CPU-s, masks of B"
    )
    print_figure("dropout_coordinator_seconds", round(unmasked * scale, 1), "no goal", "CPU-s to unmask B")


def compare_poisoned(rounds: int, rows: int, rules: tuple[str, ...]) -> None:
    """Ten sites, two of which send ten times their change turned round: accuracy by the mean and by robust rules."""
    from federations import build_sites
    from luthier.federated import local
    from tuning import examples

    every = examples(SITES * rows + 200)
    parts = {f"site{at}": every[:-200][at::SITES] for at in range(SITES)} | {"held_out": every[-200:]}
    trained, poisoned = local.FederatedTraining.train_round, {"site1", "site5"}
    attacking = False

    def training(self: Any, given: Any, *rest: Any) -> Any:
        update = trained(self, given, *rest)
        if not attacking or self._work.scratch.parent.name not in poisoned:
            return update
        turned = {
            name: given.moving[name] - 10 * (value - given.moving[name]) for name, value in update.weights.items()
        }
        return update._replace(weights=turned)

    local.FederatedTraining.train_round = training  # type: ignore[method-assign]  # the attack
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as root:
        sites = build_sites(Path(root), parts)
        tune = {"technique": {"kind": "full"}, "objective": {"kind": "classify"}, "learning_rate": 3e-3}
        names = [f"site{at}" for at in range(SITES)]
        for case in ("unpoisoned", "mean", *rules):
            attacking = case != "unpoisoned"
            robust = {"kind": case, "poisoned": 2} if case in rules else None
            step = sites.step(names, rounds=rounds, sum="mean", tune=tune, local={"epochs": 4}, robust=robust)
            right = answer_held_out(sites, sites.federate(step, digest=f"{len(found)}d" * 16))
            found[case] = sum(right) / len(right)
            print(f"  {case}: accuracy {found[case]:.3f}", flush=True)
    local.FederatedTraining.train_round = trained  # type: ignore[method-assign]
    for case in ("mean", *rules):
        goal = "much lower" if case == "mean" else ">= -0.02"
        print_figure(f"two_of_ten_poisoned_{case}", round(found[case] - found["unpoisoned"], 4), goal, "accuracy")


def answer_held_out(sites: Any, model: Any) -> list[bool]:
    """Which held-out tickets a model answers rightly."""
    from luthier.eval.evaluator import TUNED
    from luthier.eval.predictions import read_answers
    from luthier.eval.steps.evaluate import Evaluate
    from luthier.federated.measure import describe_folder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = sites.work(sites.step(["site0"]), digest="ee" * 16)
        step = Evaluate(
            data="data", model="model", metrics=None, split="train", baselines=(), tasks=(), compare_base=False
        )
        inputs = {"data": sites.data["held_out"], "model": model}
        step.make(type(work)(name="e", inputs=inputs, folder=folder, scratch=folder, recipe_dir=folder, kept=None))
        _, found = read_answers(describe_folder(folder, model.digest, "evaluate", "evaluation", {}), TUNED)
        return [one in two for one, two in zip(found.predictions, found.references, strict=True)]


def compare_with_pooled(rounds: int, rows: int) -> None:
    """Ten equal sites by `ffa` and by full weights against one training on all rows."""
    from scipy.stats import binomtest

    from federations import TRAINING, build_sites
    from luthier.tune.steps.tune import Tune
    from tuning import examples

    every = examples(SITES * rows + 200)
    held_out, training = every[-200:], every[:-200]
    parts = {f"site{at}": training[at::SITES] for at in range(SITES)} | {"pooled": training, "held_out": held_out}
    with tempfile.TemporaryDirectory() as name:
        sites = build_sites(Path(name), parts)
        technique, objective = {"kind": "full"}, {"kind": "classify"}
        settings = {"technique": technique, "objective": objective, "learning_rate": 3e-3}

        started = time.perf_counter()
        names = [f"site{at}" for at in range(SITES)]
        federated = sites.federate(sites.step(names, rounds=rounds, sum="mean", tune=settings, local={"epochs": 1}))
        print(f"  ten sites: {time.perf_counter() - started:.0f} s", flush=True)
        pooled = sites.tune(
            Tune.model_validate({"data": "data", "epochs": rounds, **TRAINING, **settings, "batch_size": 40}), "pooled"
        )
        one, other = (answer_held_out(sites, model) for model in (federated, pooled))
        sent = federated.read_json("federation.json")["rounds"][0]
        numbers = federated.read_json("training.json")["trainable_parameters"]
    better = sum(a and not b for a, b in zip(one, other, strict=True))
    worse = sum(b and not a for a, b in zip(one, other, strict=True))
    print(f"  accuracy {sum(one) / len(one):.3f} at ten sites, {sum(other) / len(other):.3f} pooled", flush=True)
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    print_figure("ten_sites_less_pooled_accuracy", round((sum(one) - sum(other)) / len(one), 4), "not less", "share")
    print_figure("p_of_that_difference", round(float(p), 3), "> 0.05", "McNemar, exact")
    print_figure("bytes_of_an_update", round(sent["up_bytes"] / (4 * numbers), 3), "<= 1.05", "of 4 bytes a number")


SNIPS = Path("/work/shared/data/snips")
"""Spoken requests with one of seven intents, where they are (Coucke et al., 2018)."""


def read_requests(each: int) -> list[tuple[str, str]]:
    """So many requests of each intent, in turn, with their intent."""
    found = []
    for path in sorted(SNIPS.glob("train_*.json")):
        intent = path.stem.removeprefix("train_")
        entries = json.loads(path.read_text(encoding="utf-8"))[intent]
        step = max(1, len(entries) // each)
        texts = ["".join(part["text"] for part in entry["data"]) for entry in entries[::step][:each]]
        found.append([(text.strip(), intent) for text in texts])
    return [one for some in zip(*found, strict=True) for one in some]


def build_skewed_sites(root: Path, parts: dict[str, list[tuple[str, str]]]) -> Any:
    """Sites whose own held-out rows are every third of theirs."""
    import tuning
    from federations import build_sites

    def build(some: list[tuple[str, str]]) -> Any:
        return [tuning.chat(text, intent, line) for line, (text, intent) in enumerate(some)]

    intents = sorted({intent for some in parts.values() for _, intent in some})
    held_out = {name: build(some[::3]) for name, some in parts.items()}
    table = tuning._data

    def write(folder: Path, splits: dict[str, Any]) -> None:
        table(folder, {**splits, "test": held_out[next(names)]})
        path = folder / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "labels": intents}))

    import federations

    names, federations._data = iter(parts), write
    sites = build_sites(
        root, {name: build([one for at, one in enumerate(some) if at % 3]) for name, some in parts.items()}
    )
    federations._data = table
    return sites


def compare_personal(each: int, rounds: int, epochs: int) -> None:
    """Five sites whose requests differ: accuracy on the sites' own held-out requests by the shared model, and by the
    models that sites have for themselves."""
    import numpy

    from luthier.federated.partition import _draw_shares, _fill_small_sites

    if not SNIPS.is_dir():
        print("  skipped: the requests of SNIPS are not here", flush=True)
        return
    rows = read_requests(each)
    intents = sorted({intent for _, intent in rows})
    dealt = _draw_shares([intent for _, intent in rows], 5, 0.1, numpy.random.default_rng(3))
    _fill_small_sites(dealt, 30)
    skewed = {f"site{at}": [rows[index] for index in indices] for at, indices in enumerate(dealt)}
    renamed = {
        f"site{at}": [(text, intents[(intents.index(intent) + at) % len(intents)]) for text, intent in rows[at::5]]
        for at in range(5)
    }
    technique = {"kind": "lora", "r": 16}
    tune = {"technique": technique, "objective": {"kind": "classify", "head": "sequence"}, "learning_rate": 5e-3}
    adapter = {"kind": "adapter", "r": 8, "local": {"epochs": float(rounds * epochs) / 2}}
    kinds: dict[str, dict[str, Any]] = {
        "shared": {"sum": "factors"},
        "head": {"sum": "factors", "personal": "head"},
        "lora_b": {"sum": "mean", "personal": "lora_b"},
        "adapter": {"sum": "factors", "personal": adapter},
    }
    for case, parts in (("dirichlet_0.1", skewed), ("other_names_of_classes", renamed)):
        found = {}
        with tempfile.TemporaryDirectory() as root:
            sites = build_skewed_sites(Path(root), parts)
            for kind, settings in kinds.items():
                step = sites.step(
                    list(parts), rounds=rounds, local={"epochs": epochs}, tune=tune, metrics=["accuracy"], **settings
                )
                started = time.process_time()
                made = sites.federate(step, digest=f"{len(found)}e" * 16).read_json("federation.json")
                metric = made["metrics"]["accuracy"]
                each_site = " ".join(f"{one['value']:.2f}" for one in metric["sites"].values())
                found[kind] = metric["value"]
                sent = sum(entry["up_bytes"] + entry["down_bytes"] for entry in made["rounds"]) / 1e3 / rounds
                print(
                    f"  {case}, {kind}: accuracy {metric['value']:.3f} on {metric['rows']} own rows ({each_site}), "
                    f"{sent:.0f} kB a round and site, {time.process_time() - started:.0f} CPU s",
                    flush=True,
                )
        for kind in list(kinds)[1:]:
            print_figure(f"personal_{kind}_{case}", round(found[kind] - found["shared"], 4), "> 0", "accuracy")


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
    parser.add_argument(
        "--only", choices=("masks", "dropouts", "pooled", "poisoned", "simulation", "personal"), help="one part alone"
    )
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
    if only in (None, "dropouts"):
        print("masks with drop-outs", flush=True)
        measure_dropouts(20 if quick else 100, 6 if quick else 30, 20_000)
    if only in (None, "poisoned"):
        print("two of ten sites poisoned", flush=True)
        rules = ("krum",) if quick else ("krum", "geometric_median")
        compare_poisoned(rounds=3 if quick else 6, rows=12 if quick else 24, rules=rules)
    if only in (None, "personal"):
        print("parts that stay at the sites", flush=True)
        compare_personal(each=30 if quick else 120, rounds=2 if quick else 4, epochs=2)
    if only not in (None, "pooled"):
        return
    print("ten equal sites against pooled tuning", flush=True)
    compare_with_pooled(rounds=3 if quick else 6, rows=12 if quick else 24)


if __name__ == "__main__":
    main()
