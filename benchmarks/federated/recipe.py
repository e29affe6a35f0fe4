"""Sites of real rows over a pretrained base, by a recipe as a user would write it.

Rows are those of the first eight classes of Banking77. `recipe_equal`: ten equal sites against pooled tuning.
`recipe_uneven`: ten sites by Dirichlet shares of 0.1, sums of ours against the average of both factors, which is what
Flower's FedAvg makes of PEFT's LoRA, by the better of two learning rates. All models see every row as often and answer
the same held-out rows; `luthier compare` pairs them. The folder keeps what was made, so a run that was stopped goes on.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.federated.figures import CLASSES, DATA, Extent, print_figure

RECIPE = """\
luthier: 1
name: equal
seed: 11
model: smollm2-135m-instruct
steps:
  data:
    kind: prepare
    source: {kind: csv, path: train.csv, prompt: text, answer: category}
    split: {test: 0, validation: 0}
    task: label
  held_out:
    kind: prepare
    source: {kind: csv, path: test.csv, prompt: text, answer: category}
    split: {test: 312, validation: 0}
    task: label
  pooled: {kind: tune, data: data, technique: {kind: lora, r: 16}, objective: classify, epochs: 6, batch_size: 8}
  of_pooled: {kind: evaluate, data: held_out, model: pooled, metrics: [accuracy]}
"""
FEDERATED = """\
  NAME:
    kind: federate
    sites: [data]
    partition: PARTITION
    rounds: 3
    local: {epochs: 2}
    sum: SUM
    tune: {technique: {kind: lora, r: 16}, objective: classify, batch_size: 8, learning_rate: RATE}
  of_NAME: {kind: evaluate, data: held_out, model: NAME, metrics: [accuracy]}
"""
EVEN, UNEVEN = "{number: 10}", "{number: 10, alpha: 0.1, min_rows: 8}"
CASES = {
    "equal": (EVEN, "ffa", "2.0e-3"),
    "uneven_factors": (UNEVEN, "factors", "1.0e-3"),
    "uneven_factors_quick": (UNEVEN, "factors", "2.0e-3"),
    "uneven_ffa": (UNEVEN, "ffa", "2.0e-3"),
    "uneven_alternate": (UNEVEN, "alternate", "2.0e-3"),
}
PAIRS = {
    "equal": [("equal", "pooled")],
    "uneven": [
        (own, flowers)
        for own in ("uneven_ffa", "uneven_alternate")
        for flowers in ("uneven_factors", "uneven_factors_quick")
    ],
}


def measure_equal(extent: Extent) -> None:
    """Ten equal sites against pooled tuning, by a recipe over a pretrained base."""
    compare_steps(PAIRS["equal"], extent)


def measure_uneven(extent: Extent) -> None:
    """Uneven sites, by a recipe over a pretrained base."""
    compare_steps(PAIRS["uneven"], extent)


def compare_steps(pairs: list[tuple[str, str]], extent: Extent) -> None:
    """Run what the pairs name, and print the paired comparisons."""
    folder = extent.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder, "train", 160 if extent.quick else 320)
    write_rows(folder, "test", 320)
    (folder / "recipe.yaml").write_text(write_recipe(), encoding="utf-8")
    luthier = [sys.executable, "-m", "luthier"]
    for step in dict.fromkeys(name for pair in pairs for name in pair):
        before = os.times()
        subprocess.run([*luthier, "run", "recipe.yaml", "--only", f"of_{step}"], cwd=folder, check=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        print_figure(f"recipe_{step}_seconds", round(spent), "no goal", f"CPU-s, load {os.getloadavg()[0]:.0f}")
    for one, other in pairs:
        print(f"{one} less {other}", flush=True)
        subprocess.run(
            [*luthier, "compare", f"recipe.yaml:of_{one}", f"recipe.yaml:of_{other}"], cwd=folder, check=True
        )


def write_recipe() -> str:
    """The recipe with all cases."""
    text = RECIPE
    for name, (partition, kind, rate) in CASES.items():
        filled = FEDERATED.replace("NAME", name).replace("PARTITION", partition)
        text += filled.replace("SUM", kind).replace("RATE", rate)
    return text


def write_rows(folder: Path, name: str, count: int) -> None:
    """The same number of rows of each class, classes in turn."""
    by_class: dict[str, list[str]] = {}
    with (DATA / "banking77" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            by_class.setdefault(row["category"].replace("_", " "), []).append(row["text"])
    chosen = sorted(by_class)[:CLASSES]
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        writer.writerows((by_class[label][at], label) for at in range(count // CLASSES) for label in chosen)
