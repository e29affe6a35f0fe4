"""Ten sites against pooled tuning, and sums of ours on uneven sites against the average that Flower takes.

Sites and the pooled training see the same rows as often, with a tiny model made on the spot or the first layers of a
given one; all answer the same held-out rows.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.federated.figures import CLASSES, DATA, SITES, Extent, answer_held_out, print_difference, print_figure

LAYERS = 4
"""Of the given model, as a base that two cores can tune a dozen times."""
LEARNING_RATES = (1e-2, 3e-2)
BATCH_SIZE = 8
LOCAL = {"epochs": 2}
MIN_ROWS = BATCH_SIZE // LOCAL["epochs"]
"""Of a site: fewer make no whole step in a round, and the site refuses."""


def measure_tickets(extent: Extent) -> None:
    """Ten equal sites against pooled tuning, full weights."""
    compare_with_pooled(rounds=3 if extent.quick else 6, rows=12 if extent.quick else 24)


def measure_equal(extent: Extent) -> None:
    """Ten equal sites of real rows against pooled tuning."""
    rounds, rows = (2, 160) if extent.quick else (5, 320)
    compare_equal_sites(extent.model, rounds, rows, held_out=320)


def measure_uneven(extent: Extent) -> None:
    """Uneven sites."""
    rounds, rows = (2, 160) if extent.quick else (5, 320)
    compare_uneven_sites(extent.model, rounds, rows, held_out=320)


def compare_with_pooled(rounds: int, rows: int) -> None:
    """Ten equal sites by `ffa` and by full weights against one training on all rows."""
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
    print(f"  accuracy {sum(one) / len(one):.3f} at ten sites, {sum(other) / len(other):.3f} pooled", flush=True)
    print_difference("ten_sites_less_pooled_accuracy", "not significant", one, other)
    print_figure("bytes_of_an_update", round(sent["up_bytes"] / (4 * numbers), 3), "<= 1.05", "of 4 bytes a number")


def read_banking(rows: int, held_out: int) -> tuple[list[Any], list[Any]]:
    """Training and test rows of Banking77's first classes, dealt evenly between the classes."""
    from luthier.chat.messages import Example, ExampleOrigin, Message, example_id

    found: list[list[Any]] = []
    for name, count in (("train", rows), ("test", held_out)):
        by_class: dict[str, list[Any]] = {}
        with (DATA / "banking77" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
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
        "technique": {"kind": "lora", "r": rank}, "objective": {"kind": "classify"},
        "batch_size": BATCH_SIZE,
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


def compare_equal_sites(model: Path | None, rounds: int, rows: int, held_out: int) -> None:
    """Ten equal sites of real rows against pooled tuning by the same LoRA and as many steps of ten times the rows."""
    from luthier.tune.steps.tune import Tune

    with tempfile.TemporaryDirectory() as name:
        sites = open_banking(Path(name), model, rows, held_out)
        names = [f"site{at}" for at in range(SITES)]
        ours, _, _ = tune_banking(sites, "ten sites, ffa", rounds, names=names, sum="ffa")
        started = time.process_time()
        settings = {
            "technique": {"kind": "lora", "r": 8}, "objective": {"kind": "classify"}, "batch_size": BATCH_SIZE * SITES,
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
                    sites, case, rounds, names=["all"], rate=rate,
                    partition={"number": SITES, "alpha": 0.1, "min_rows": MIN_ROWS}, **settings,
                )
                for rate in LEARNING_RATES
            ]  # fmt: skip
            found[case] = max(tries, key=lambda entry: sum(entry[0]))
    flowers = found.pop("factors (Flower's average)")
    for case, (right, spent, sent) in found.items():
        print_difference(f"dirichlet_0.1_{case}_less_flowers_average", "> 0", right, flowers[0])
        print(f"  {spent / flowers[1]:.2f} of its CPU-s and {sent / flowers[2]:.2f} of its bytes", flush=True)
