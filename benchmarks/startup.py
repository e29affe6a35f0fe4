"""How long the doors take to open: `--help`, `plan` and a fully cached `run`, as whole processes.

    python benchmarks/startup.py [--quick]

The recipe is a small one with a tiny model made on the spot, so that `run` finishes in seconds the first time; what is
measured is the second time. Bare interpreter start-up is measured beside it, in turn, and printed too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def seconds(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Wall seconds of one whole process."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def loads_torch(command: list[str], folder: Path, environment: dict[str, str]) -> bool:
    """Whether a command imports torch, read off Python's own import log."""
    log = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "luthier", *command[1:]],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    ).stderr  # fmt: skip
    return any(line.rpartition("|")[2].strip() == "torch" for line in log.splitlines())


def main() -> None:
    """Measure the three doors in turn, print medians, and one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five rounds instead of twenty")
    rounds = 5 if parser.parse_args().quick else 20
    from tests.tiny_models import small_recipe

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = small_recipe(folder)
        environment = {**os.environ, "LUTHIER_CACHE": str(folder / "cache")}
        luthier = str(Path(sys.executable).with_name("luthier"))
        doors = {
            "help_s": ([luthier, "--help"], 0.5),
            "plan_s": ([luthier, "plan", str(recipe)], 1.0),
            "cached_run_s": ([luthier, "run", str(recipe)], 1.5),
        }
        print("making the recipe once", flush=True)
        print(f"  {seconds(doors['cached_run_s'][0], folder, environment):.2f} s", flush=True)
        times: dict[str, list[float]] = {figure: [] for figure in doors} | {"python": []}
        for turn in range(rounds):
            times["python"].append(seconds([sys.executable, "-c", "pass"], folder, environment))
            for figure, (command, _) in doors.items():
                times[figure].append(seconds(command, folder, environment))
            print(
                f"round {turn + 1}: " + ", ".join(f"{key} {values[-1]:.3f}" for key, values in times.items()),
                flush=True,
            )
        print(f"bare interpreter: {statistics.median(times['python']):.3f} s")
        device = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
        for figure, (command, goal) in doors.items():
            light = figure == "cached_run_s" or not loads_torch(command, folder, environment)
            value = round(statistics.median(times[figure]), 3)
            line = {
                "figure": figure,
                "value": value,
                "goal": goal,
                "unit": "s",
                "torch_loaded": not light,
                "device": device,
            }
            print(json.dumps(line))


if __name__ == "__main__":
    main()
