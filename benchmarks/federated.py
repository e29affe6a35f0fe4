"""Federated tuning against pooled tuning, and what masks and messages cost.

    python benchmarks/federated.py [--quick] [--model FOLDER] [--only PART]

Ten equal sites and one pooled training see the same tickets as often, with a tiny model made on the spot; both answer
the same held-out tickets. Simulated sites have eight rows each, and train one step over a tiny model or over FOLDER.
Masks are measured on as many numbers as LoRA of rank 16 has in B in SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

DATA = ROOT.parent / "shared" / "data" / "banking77"
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

    from luthier.federated.messaging.keys import FederationIdentity
    from luthier.federated.secure_aggregation.masks import MaskSettings, PairMasks, decode_sum, encode_update

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

    from luthier.federated.messaging.keys import FederationIdentity
    from luthier.federated.secure_aggregation.dropout_masks import (
        DropoutMasks,
        MaskRound,
        RevealedShares,
        find_least,
        unmask_sum,
    )

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


def measure_planted_copies(rows: int) -> None:
    """Two sites with so many rows each, a tenth of them held out; a hundredth of what one trains on is a near copy of
    what the other holds out."""
    from compared_sites import change_words, draw_texts

    held = rows // 10
    texts = draw_texts(2 * rows, 1)
    south = texts[rows:]
    copies = [change_words(text, 1, at) for at, text in enumerate(south[: rows // 100])]
    parts = {
        "north": (texts[: rows - held - len(copies)] + copies, texts[rows - held : rows]),
        "south": (south[held:], south[:held]),
    }
    left_out = measure_decontamination(parts, f"of {rows:,} rows at each of two sites, {held:,} of them held out")
    found = {name: len(texts) for name, texts in left_out.items()}
    print_figure("decontaminate_found", found["north"] / len(copies), "1", f"of {len(copies)} copies with another word")
    strangers = found["south"] + max(0, found["north"] - len(copies))
    print_figure("decontaminate_strangers", strangers, "0", "other rows left out")


def measure_real_copies(name: str, train: Sequence[str], test: Sequence[str]) -> None:
    """What a site leaves out of real rows that another holds out, beside what `near_dedup` verifies over all rows."""
    from luthier.data.dedup.near import NearDuplicateIndex
    from luthier.federated.decontamination.bands import _build_row
    from tuning import chat

    about = f"of {len(train):,} rows of {name} against {len(test):,} held out"
    parts = {"north": (train, test[:1]), "south": (test[:8], test)}
    left_out = set(measure_decontamination(parts, about)["north"])
    rows, held = ([_build_row(chat(text, "billing", at)) for at, text in enumerate(texts)] for texts in (train, test))
    indices = {at: NearDuplicateIndex(at, iter(held), held.__getitem__) for at in (0.8, 0.75, 0.7)}
    true, near, far = (
        {text for text, row in zip(train, index.nearest_of(rows), strict=True) if row is not None}
        for index in indices.values()
    )
    counts = {"verified": true, "left_out": left_out, "beside": left_out - true, "beside_below_75": left_out - near}
    for figure, texts in counts.items():
        number = sum(text in texts for text in train)
        print_figure(f"decontaminate_{figure}", number, "few" if "beside" in figure else "no goal", about)
    print_figure("decontaminate_below_70", sum(text in left_out - far for text in train), "0", about)
    print_figure("decontaminate_recall", len(left_out & true) / len(true), ">= 0.99", "of those verified at 0.8")
    print_figure("decontaminate_precision", len(left_out & true) / len(left_out), "1", "of those left out")


def measure_decontamination(
    parts: Mapping[str, tuple[Sequence[str], Sequence[str]]], about: str
) -> dict[str, list[str]]:
    """Two sites with training rows and held-out rows, north first; the texts that each leaves out. Prints CPU seconds
    of both sites together, and bytes between them."""
    from compared_sites import build_group
    from luthier.artifacts.dataset import read_examples

    with tempfile.TemporaryDirectory() as root:
        group = build_group(Path(root), parts)
        carried: Any = None
        stages: dict[str, Callable[[Any], Any]] = {
            "ask": lambda _: group.ask(),
            "answer": lambda asked: group.evaluate(asked, 2),
            "ask_more": group.ask_more,
            "answer_more": lambda asked: group.evaluate(asked, 4),
        }
        for figure, run in stages.items():
            started = time.process_time()
            carried = run(carried)
            seconds = time.process_time() - started
            print_figure(
                f"decontaminate_{figure}_seconds", round(seconds, 1), "no goal", f"CPU-s of both sites, {about}"
            )
            for name in parts:
                size = sum(len(envelope) for envelope in carried[name].values()) / 1e6
                print_figure(f"decontaminate_{figure}_bytes", round(size, 1), "no goal", f"MB from {name}")
        started = time.process_time()
        for name in parts:
            group.open(name).leave_out(5, group.deal(carried, name), None)
        seconds = time.process_time() - started
        print_figure("decontaminate_leave_out_seconds", round(seconds, 1), "no goal", "CPU-s of both sites")
        found = {}
        for name, work in group.works.items():
            ids = {line["id"] for line in group.read_left_out(name)}
            found[name] = [
                str(row.messages[-2].content) for row in read_examples(work.inputs["data"], "train") if row.id in ids
            ]
        return found


def read_column(path: Path, column: str) -> list[str]:
    """The texts of a CSV file's column."""
    with path.open(encoding="utf-8", newline="") as file:
        return [line[column] for line in csv.DictReader(file)]


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


LAYERS = 4
"""Of the given model, as a base that two cores can tune a dozen times."""
CLASSES = 8
LEARNING_RATES = (1e-2, 3e-2)
LOCAL = {"epochs": 2}


def read_banking(rows: int, held_out: int) -> tuple[list[Any], list[Any]]:
    """Training and test rows of Banking77's first classes, dealt evenly between the classes."""
    from luthier.chat.messages import Example, ExampleOrigin, Message, example_id

    found: list[list[Any]] = []
    for name, count in (("train", rows), ("test", held_out)):
        by_class: dict[str, list[Any]] = {}
        with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                label = row["category"].replace("_", " ")
                messages = (Message(role="user", content=row["text"]), Message(role="assistant", content=label))
                key = example_id(messages, label, {}, line)
                origin = ExampleOrigin(source="csv", file=f"{name}.csv", line=line)
                example = Example(id=key, origin=origin, kind="label", messages=messages, label=label)
                by_class.setdefault(label, []).append(example)
        chosen = sorted(by_class)[:CLASSES]
        found.append([by_class[label][at] for at in range(count // CLASSES) for label in chosen])
    return found[0], found[1]


def open_banking(folder: Path, model: Path | None, rows: int, held_out: int) -> Any:
    """Banking77's rows as one data set and dealt to ten equal sites, over the first layers of a model or a tiny one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from federations import build_sites
    from tuning import finish

    training, test = read_banking(rows, held_out)
    parts = {f"site{at}": training[at::SITES] for at in range(SITES)} | {"all": training, "held_out": test}
    sites = build_sites(folder, parts)
    if model is None:
        return sites
    base = AutoModelForCausalLM.from_pretrained(model)
    base.model.layers = base.model.layers[:LAYERS]
    base.config.num_hidden_layers = LAYERS
    if getattr(base.config, "layer_types", None):
        base.config.layer_types = base.config.layer_types[:LAYERS]
    written, _ = sites.store.begin("b" * 32)
    base.save_pretrained(written)
    AutoTokenizer.from_pretrained(model).save_pretrained(written)
    shutil.copy(model / "model.json", written / "model.json")
    sites.base = finish(sites.store, "b" * 32, "base", "model", {})
    return sites


def tune_banking(sites: Any, case: str, rounds: int, **settings: Any) -> tuple[list[bool], float, float]:
    """Which held-out rows a federation answers rightly, CPU-seconds of its making, and bytes of a round and site."""
    rank, rate = settings.pop("rank", 8), settings.pop("rate", LEARNING_RATES[0])
    tune = {
        "technique": {"kind": "lora", "r": rank}, "objective": {"kind": "classify"}, "batch_size": 8,
        "learning_rate": rate,
    }  # fmt: skip
    step = sites.step(rounds=rounds, local=LOCAL, tune=tune, **settings)
    started = time.process_time()
    model = sites.federate(step)
    spent = time.process_time() - started
    right = answer_held_out(sites, model)
    record = model.read_json("federation.json")["rounds"]
    sent = sum(entry["up_bytes"] + entry["down_bytes"] for entry in record) / len(record)
    print(
        f"  {case}, learning rate {rate:g}: accuracy {sum(right) / len(right):.3f}, {spent:.0f} CPU-s, "
        f"{sent / 1e6:.2f} MB a round and site; load {os.getloadavg()[0]:.0f}",
        flush=True,
    )
    return right, spent, sent


def print_difference(figure: str, goal: str, one: list[bool], other: list[bool]) -> None:
    """The paired difference of two accuracies with its interval, and McNemar's p."""
    from scipy.stats import binomtest

    apart = [a - b for a, b in zip(one, other, strict=True)]
    mean = sum(apart) / len(apart)
    error = (sum((value - mean) ** 2 for value in apart) / (len(apart) - 1) / len(apart)) ** 0.5
    better, worse = apart.count(1), apart.count(-1)
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    unit = f"accuracy, 95 % from {mean - 1.96 * error:+.3f} to {mean + 1.96 * error:+.3f}, p {p:.2g}, {len(one)} rows"
    print_figure(figure, round(mean, 4), goal, unit)


def compare_equal_sites(model: Path | None, rounds: int, rows: int, held_out: int) -> None:
    """Ten equal sites of real rows against pooled tuning by the same LoRA and as many steps of ten times the rows."""
    from luthier.tune.steps.tune import Tune

    with tempfile.TemporaryDirectory() as name:
        sites = open_banking(Path(name), model, rows, held_out)
        names = [f"site{at}" for at in range(SITES)]
        ours, _, _ = tune_banking(sites, "ten sites, ffa", rounds, names=names, sum="ffa")
        started = time.process_time()
        settings = {
            "technique": {"kind": "lora", "r": 8}, "objective": {"kind": "classify"}, "batch_size": 8 * SITES,
            "learning_rate": LEARNING_RATES[0], "epochs": rounds * LOCAL["epochs"], "data": "data",
        }  # fmt: skip
        pooled = answer_held_out(sites, sites.tune(Tune.model_validate(settings), "all"))
        spent = time.process_time() - started
        print(f"  pooled: accuracy {sum(pooled) / len(pooled):.3f}, {spent:.0f} CPU-s", flush=True)
    print_difference("ten_equal_sites_less_pooled", "not significant", ours, pooled)


def compare_uneven_sites(model: Path | None, rounds: int, rows: int, held_out: int) -> None:
    """Dirichlet shares of 0.1: sums of ours against the average of both factors, which is what Flower's FedAvg makes of
    PEFT's LoRA; each by the better of two learning rates. `ffa` at rank 10 sends as much as the average at 8."""
    cases: dict[str, dict[str, Any]] = {
        "factors (Flower's average)": {"sum": "factors"},
        "ffa": {"sum": "ffa"},
        "ffa, rank 10": {"sum": "ffa", "rank": 10},
        "alternate": {"sum": "alternate"},
        "residual": {"sum": "residual"},
        "stack": {"sum": "stack"},
    }
    with tempfile.TemporaryDirectory() as name:
        sites = open_banking(Path(name), model, rows, held_out)
        found = {}
        for case, settings in cases.items():
            tries = [
                tune_banking(
                    sites, case, rounds, names=["all"], partition={"number": SITES, "alpha": 0.1, "min_rows": 2},
                    rate=rate, **settings,
                )
                for rate in LEARNING_RATES
            ]  # fmt: skip
            found[case] = max(tries, key=lambda entry: sum(entry[0]))
    flowers = found.pop("factors (Flower's average)")
    for case, (right, spent, sent) in found.items():
        print_difference(f"dirichlet_0.1_{case}_less_flowers_average", "> 0", right, flowers[0])
        print(f"  {spent / flowers[1]:.2f} of its CPU-s and {sent / flowers[2]:.2f} of its bytes", flush=True)


SNIPS = DATA.parent / "snips"
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


def compare_personal(each: int, rounds: int, epochs: int, only: tuple[str, ...] = ()) -> None:
    """Five sites whose requests differ: accuracy on the sites' own held-out requests by the shared model, and by the
    models that sites have for themselves; `alone` is a training of each site as long, where all sites have all
    classes."""
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
        "alone": {"sum": "factors"},
        "head": {"sum": "factors", "personal": "head"},
        "lora_b": {"sum": "mean", "personal": "lora_b"},
        "adapter": {"sum": "factors", "personal": adapter},
    }
    kinds = {kind: settings for kind, settings in kinds.items() if not only or kind in only}
    for case, parts in (("dirichlet_0.1", skewed), ("other_names_of_classes", renamed)):
        found = {}
        with tempfile.TemporaryDirectory() as root:
            sites = build_skewed_sites(Path(root), parts)
            for kind, settings in kinds.items():
                if kind == "alone" and parts is skewed:
                    continue  # some held-out requests have intents that a site alone never saw
                started = time.process_time()
                own, sent = {}, 0.0
                for names in [[name] for name in parts] if kind == "alone" else [list(parts)]:
                    more = {"local": {"epochs": epochs}, "tune": tune, "metrics": ["accuracy"], **settings}
                    step = sites.step(names, rounds=rounds, **more)
                    made = sites.federate(step, digest=f"{len(found)}{names[-1][-1]}" * 16)
                    record = made.read_json("federation.json")
                    own |= record["metrics"]["accuracy"]["sites"]
                    sent = sum(entry["up_bytes"] + entry["down_bytes"] for entry in record["rounds"]) / 1e3 / rounds
                rows_in_all = sum(one["rows"] for one in own.values())
                found[kind] = sum(one["value"] * one["rows"] for one in own.values()) / rows_in_all
                each_site = " ".join(f"{one['value']:.2f}" for one in own.values())
                print(
                    f"  {case}, {kind}: accuracy {found[kind]:.3f} on {rows_in_all} own rows ({each_site}), "
                    f"{0 if kind == 'alone' else sent:.0f} kB a round and site, "
                    f"{time.process_time() - started:.0f} CPU s",
                    flush=True,
                )
        for kind in list(kinds)[2:]:
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


def compare_simulations(few: int, many: int, model: Path | None) -> None:
    """The same simulated sites by Flower's own simulation (Ray), in an environment of its own: CPU-seconds of a site,
    and of all. Flower's sites open their base as its examples do; and once in a process, as a careful user would."""
    environment = Path(os.environ.get("LUTHIER_FLOWER_ENV", "missing"))
    if not (environment / "bin" / "python").exists():
        print("  left out: install flwr[simulation] into an environment, and set LUTHIER_FLOWER_ENV to it", flush=True)
        return
    name = "a tiny model" if model is None else model.name
    with tempfile.TemporaryDirectory() as folder:
        rows, base = tokenize_sites(Path(folder), many, model)
        kept: dict[str, list[dict[str, float]]] = {"ours": [], "opened": [], "kept": []}
        for number in (few, many):  # each after the other, so that the load is alike
            kept["ours"].append(run_simulation(number, model))
            for case in ("opened", "kept"):
                task = {
                    "packages": sysconfig.get_paths()["purelib"], "model": str(base), "rows": rows[:number],
                    "keep": case == "kept",
                }  # fmt: skip
                path = Path(folder) / "task.json"
                path.write_text(json.dumps(task))
                kept[case].append(run_flower(environment, path))
        load = os.getloadavg()[0]
    for case, (two, all_sites) in kept.items():
        each = (all_sites["cpu_s"] - two["cpu_s"]) / (many - few)
        print(
            f"  {case}: {all_sites['cpu_s']:.1f} CPU-s for {many} sites over {name}, {each:.3f} more for each site; "
            f"{all_sites['bytes'] / 2**20:.0f} MiB; load {load:.0f}",
            flush=True,
        )
    for case in ("opened", "kept"):
        whole = kept[case][1]["cpu_s"] / kept["ours"][1]["cpu_s"]
        flowers, ours = (kept[key][1]["cpu_s"] - kept[key][0]["cpu_s"] for key in (case, "ours"))
        label = f"simulation_of_flower_base_{case}"
        print_figure(label, round(whole, 2), ">= 5", f"times our CPU-s, {many} sites over {name}, start and all")
        print_figure(f"{label}_a_site", round(flowers / ours, 2), ">= 5", "times our CPU-s for one more site")


def tokenize_sites(folder: Path, number: int, model: Path | None) -> tuple[list[list[dict[str, list[int]]]], Path]:
    """Eight rows for each site as tokens, and the base's folder."""
    from transformers import AutoTokenizer

    from federations import build_sites
    from tuning import examples

    base = build_sites(folder, {"all": examples(8)}).base.folder if model is None else model
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = []
    for example in examples(number * 8):
        messages = [{"role": message.role, "content": message.content} for message in example.messages]
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        prompt = tokenizer.apply_chat_template(
            messages[:-1], tokenize=True, return_dict=True, add_generation_prompt=True
        )["input_ids"]
        rows.append({"ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt) :]})
    return [rows[at * 8 : at * 8 + 8] for at in range(number)], base


def run_flower(environment: Path, task: Path) -> dict[str, float]:
    """Flower's simulation of a task in its environment."""
    script = Path(__file__).parent / "flower_simulation.py"
    variables = {**os.environ, "FLOWER_TASK": str(task), "PYTHONPATH": str(script.parent), "OMP_NUM_THREADS": "1"}
    program = "import flower_simulation; flower_simulation.start()"
    done = subprocess.run(
        [str(environment / "bin" / "python"), "-c", program],
        check=False, capture_output=True, text=True, env=variables,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if line.startswith('{"cpu_s"')]
    if not found:
        raise SystemExit(done.stderr[-3000:])
    usage: dict[str, float] = json.loads(found[-1])
    return usage


def run_simulation(number: int, model: Path | None) -> dict[str, float]:
    """Ours, in a process of its own."""
    task = json.dumps({"number": number, "model": str(model) if model else None})
    command = [sys.executable, __file__, "--simulate", task]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=variables)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "cpu_s": found["process_s"]}


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
    spent_all = time.process_time()
    print(json.dumps({"cpu_s": whole, "steps_s": spent[0], "bytes": peak, "process_s": spent_all}))


def measure_exchanges(only: str | None, *, quick: bool) -> None:
    """Masks, drop-outs, rows that are compared, poisoned sites, and parts that stay."""
    if only in (None, "masks"):
        print("masks", flush=True)
        measure_masks(SITES, FFA_NUMBERS // (10 if quick else 1))
    if only in (None, "dropouts"):
        print("masks with drop-outs", flush=True)
        measure_dropouts(20 if quick else 100, 6 if quick else 30, 20_000)
    if only in (None, "decontaminate"):
        print("rows compared across sites", flush=True)
        measure_planted_copies(1_000 if quick else 10_000)
        few = 1_000 if quick else None
        if DATA.is_dir():
            measure_real_copies(
                "banking77", *(read_column(DATA / f"{part}.csv", "text")[:few] for part in ("train", "test"))
            )
        intents = DATA.parent / "bitext_intents"
        if intents.is_dir():
            files = (intents / f"Bitext_Sample_Customer_Service_{part}_Dataset.csv" for part in ("Training", "Testing"))
            measure_real_copies("bitext_intents", *(read_column(file, "utterance")[:few] for file in files))
    if only in (None, "poisoned"):
        print("two of ten sites poisoned", flush=True)
        rules = ("krum",) if quick else ("krum", "geometric_median", "geometric_median trim")
        compare_poisoned(rounds=3 if quick else 6, rows=12 if quick else 24, rules=rules)
    if only in (None, "drift"):
        print("sites that differ", flush=True)
        compare_drift(rounds=3 if quick else 8, rows=12 if quick else 24)
    if only in (None, "personal"):
        print("parts that stay at the sites", flush=True)
        compare_personal(each=30 if quick else 120, rounds=2 if quick else 4, epochs=2)


def compare_with_flower(only: str | None, quick: bool, model: Path | None) -> None:
    """Its simulation, its average on uneven sites, and equal sites against pooled tuning."""
    if only in (None, "flower"):
        print("simulated sites by Flower", flush=True)
        compare_simulations(2, 20 if quick else 100, None)
        if model is not None:
            compare_simulations(2, 6 if quick else 12, model)
    if only in (None, "equal"):
        print("ten equal sites of real rows against pooled tuning", flush=True)
        compare_equal_sites(model, rounds=2 if quick else 5, rows=160 if quick else 320, held_out=320)
    if only in (None, "uneven"):
        print("uneven sites", flush=True)
        compare_uneven_sites(model, rounds=2 if quick else 5, rows=160 if quick else 320, held_out=320)


def main() -> None:
    """Measure, and print one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds of fewer rows, and fewer numbers")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder to simulate sites over, beside a tiny model")
    parser.add_argument(
        "--only",
        choices=(
            "masks",
            "dropouts",
            "decontaminate",
            "pooled",
            "poisoned",
            "drift",
            "simulation",
            "flower",
            "equal",
            "uneven",
            "personal",
        ),
        help="one part alone",
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
    compare_with_flower(only, quick, given.model)
    measure_exchanges(only, quick=quick)
    if only not in (None, "pooled"):
        return
    print("ten equal sites against pooled tuning", flush=True)
    compare_with_pooled(rounds=3 if quick else 6, rows=12 if quick else 24)


if __name__ == "__main__":
    main()
