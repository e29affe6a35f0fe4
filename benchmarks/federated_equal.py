"""Ten equal sites against pooled tuning of a pretrained base, by a recipe as a user would write it.

    python benchmarks/federated_equal.py [--rows 320] [--held-out 320] [--folder FOLDER]

Rows are those of the first eight classes of Banking77. Both models see every row as often and answer the same held-out
rows; `luthier compare` pairs them. The folder keeps what was made, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES = 8
ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("LUTHIER_DATA", ROOT.parent / "shared" / "data")) / "banking77"
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
  federated:
    kind: federate
    sites: [data]
    partition: {number: 10}
    rounds: 3
    local: {epochs: 2}
    sum: ffa
    tune: {technique: {kind: lora, r: 16}, objective: classify, batch_size: 8, learning_rate: 2.0e-3}
  pooled: {kind: tune, data: data, technique: {kind: lora, r: 16}, objective: classify, epochs: 6, batch_size: 8}
  of_sites: {kind: evaluate, data: held_out, model: federated, metrics: [accuracy]}
  of_pool: {kind: evaluate, data: held_out, model: pooled, metrics: [accuracy]}
"""


def write_rows(folder: Path, name: str, count: int) -> None:
    """The same number of rows of each class, classes in turn."""
    by_class: dict[str, list[str]] = {}
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            by_class.setdefault(row["category"].replace("_", " "), []).append(row["text"])
    chosen = sorted(by_class)[:CLASSES]
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        writer.writerows((by_class[label][at], label) for at in range(count // CLASSES) for label in chosen)


def main() -> None:
    """Run the recipe, and print the paired comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--held-out", type=int, default=320)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder, "train", given.rows)
    write_rows(folder, "test", given.held_out)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    luthier = [sys.executable, "-m", "luthier"]
    for step in ("of_sites", "of_pool"):
        before = time.time(), os.times()
        subprocess.run([*luthier, "run", "recipe.yaml", "--only", step], cwd=folder, check=True)
        spent = os.times().children_user + os.times().children_system
        spent -= before[1].children_user + before[1].children_system
        print(json.dumps({"figure": f"cpu_s_{step}", "value": round(spent), "load": round(os.getloadavg()[0])}))
    subprocess.run([*luthier, "compare", "recipe.yaml:of_sites", "recipe.yaml:of_pool"], cwd=folder, check=True)


if __name__ == "__main__":
    main()
