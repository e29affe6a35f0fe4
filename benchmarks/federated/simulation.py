"""Simulated sites over one base: what a round takes beside the sites' steps, and beside Flower's own simulation.

Sites have eight rows each, and train one step over a tiny model made on the spot or over a given one. Each simulation
is a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.federated.figures import Extent, print_figure


def measure(extent: Extent) -> None:
    """Simulated sites."""
    measure_simulation(100 if extent.quick else 1000, None)
    if extent.model is not None:
        measure_simulation(10 if extent.quick else 50, extent.model)


def measure_flower(extent: Extent) -> None:
    """Simulated sites by Flower."""
    compare_simulations(2, 20 if extent.quick else 100, None)
    if extent.model is not None:
        compare_simulations(2, 6 if extent.quick else 12, extent.model)


def measure_simulation(number: int, model: Path | None) -> None:
    """Simulated sites of eight rows, one round of one step each: what all of it takes beside the steps alone, and its
    memory beside that of two sites."""
    few, many = (run_simulation(sites, model) for sites in (2, number))
    name = "a tiny model" if model is None else model.name
    print(
        f"  {number} sites over {name}: {many['making_s']:.0f} CPU-s, {many['steps_s']:.0f} of them in steps; "
        f"load {os.getloadavg()[0]:.0f}",
        flush=True,
    )
    print_figure("simulation_time", round(many["making_s"] / many["steps_s"], 3), "<= 1.1", "of the sites' training")
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
    command = [sys.executable, str(Path(__file__).parent), "--simulate", task]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=variables)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def simulate(task: dict[str, Any]) -> None:
    """One simulation: CPU-seconds in all, of the making and in trainings, and the peak of memory."""
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
    print(json.dumps({"cpu_s": time.process_time(), "making_s": whole, "steps_s": spent[0], "bytes": peak}))
