"""Federated tuning against pooled tuning and against Flower, what masks and messages cost, and what attacks find.

python benchmarks/federated [--quick] [--model FOLDER] [--folder FOLDER] [PART …]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "src"), str(ROOT / "tests")]  # in the place of this folder

from benchmarks.federated import (  # noqa: E402  # the path is made first
    attacks,
    decontamination,
    differing_sites,
    masks,
    personal,
    pooled,
    recipe,
    simulation,
)
from benchmarks.federated.figures import Extent  # noqa: E402

PARTS: dict[str, Callable[[Extent], None]] = {
    "simulation": simulation.measure,
    "flower": simulation.measure_flower,
    "equal": pooled.measure_equal,
    "uneven": pooled.measure_uneven,
    "masks": masks.measure,
    "dropouts": masks.measure_lost_sites,
    "decontaminate": decontamination.measure,
    "poisoned": differing_sites.measure_poisoned,
    "drift": differing_sites.measure_drift,
    "personal": personal.measure,
    "pooled": pooled.measure_tickets,
    "rebuild": attacks.measure_rebuilt_tokens,
    "members": attacks.measure_told_members,
    "backdoor": attacks.measure_backdoors,
    "recipe_equal": recipe.measure_equal,
    "recipe_uneven": recipe.measure_uneven,
}


def main() -> None:
    """Measure the parts that were asked for, and print one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rows and numbers")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder to simulate sites over, beside a tiny model")
    parser.add_argument("--folder", type=Path, help="where runs by a recipe stay, so that a stopped one goes on")
    parser.add_argument("--simulate", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; all by default")
    asked = parser.parse_args()
    if asked.simulate is not None:
        simulation.simulate(asked.simulate)
        return
    if unknown := sorted(set(asked.parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    for name in asked.parts or PARTS:
        print(f"== {name}: {PARTS[name].__doc__}", flush=True)
        PARTS[name](Extent(asked.quick, asked.model, asked.folder))


if __name__ == "__main__":
    main()
