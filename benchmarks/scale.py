"""How a recipe fares away from this process: order to first step, plans of many steps behind a URL, the cost model.

    python benchmarks/scale.py [--quick] [--only order|plan|rows|cost|ranks]

Order to first step: from the moment at which a run hands a step over to the first event of that step, beside what the
engine itself takes to start a program that does nothing. Plan: 200 steps that are made, in a store behind an S3 server
on loopback (moto), seen from a machine with an empty cache. Rows: documents through operators by two workers of a Ray
cluster of this machine, beside two processes. Cost: the estimates of `luthier.models.machine_cost` beside
published MFU (`published_mfu.csv`), those that constants were fitted to and all others. Ranks: `scale_ranks.py`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

BEYOND_START_S = 3.0
PLAN_S = 2.0
ROWS_RATIO = 0.9
STEPS = 200
LEAST_PARAMETERS, WITHIN = 1_000_000_000, 0.2
DEVICE = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"


def show(figure: str, value: float, goal: float, unit: str, peer: str = "") -> None:
    """One figure as a line of JSON."""
    line = {"figure": figure, "value": round(value, 3), "goal": goal, "unit": unit, "peer": peer, "device": DEVICE}
    print(json.dumps(line), flush=True)


def run_luthier(folder: Path, environment: Mapping[str, str], *words: str) -> float:
    """Wall seconds of one command."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "luthier", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def read_handover(folder: Path) -> float:
    """Seconds from the start of the step in the newest run to the first event of its own."""
    log = max((folder / ".luthier" / "runs").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    start = next(event["at"] for event in events if event["kind"] == "start")
    own = (
        event["at"]
        for event in events
        if event["at"] > start and event["kind"] in ("note", "progress") and "the job" not in event.get("text", "")
    )
    return float(next(own) - start)


def measure_order(rounds: int) -> None:
    """Order to first step, in a process of its own and as a job of Slurm."""
    from slurm import slurm_cluster, why_no_slurm
    from tests.tiny_models import own_cache, small_recipe

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_recipe(folder)
        outside = {key: value for key, value in os.environ.items() if key not in ("LUTHIER_STORE", "LUTHIER_LEDGER")}
        environment = {**outside, "LUTHIER_CACHE": own_cache(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
        measure_engine("process", "process", folder, environment, [sys.executable, "-c", "pass"], rounds)
        if reason := why_no_slurm():
            print(f"slurm: not measured: {reason}", flush=True)
            return
        with slurm_cluster(folder / "slurm") as cluster:
            nothing = ["sbatch", "--wait", "--output=/dev/null", "--wrap=true"]
            settings = "{kind: slurm, poll_s: 0.1}"
            measure_engine("slurm", settings, folder, {**environment, **cluster}, nothing, rounds)


def measure_engine(
    name: str, settings: str, folder: Path, environment: Mapping[str, str], nothing: list[str], rounds: int
) -> None:
    """The same for one engine, in turn with a program that does nothing."""
    orders, starts = [], []
    for turn in range(rounds):
        started = time.perf_counter()
        subprocess.run(nothing, cwd=folder, env=environment, check=True, capture_output=True)
        starts.append(time.perf_counter() - started)
        run_luthier(
            folder, environment, "run", ".", "--only", "data", "--on", settings, f"seed={len(name) * 100 + turn}"
        )
        orders.append(read_handover(folder))
        print(f"{name} {turn + 1}: start alone {starts[-1]:.2f} s, order to first step {orders[-1]:.2f} s", flush=True)
    beyond = statistics.median(orders) - statistics.median(starts)
    show(f"order_beyond_start_{name}", beyond, BEYOND_START_S, "s", f"{name} alone {statistics.median(starts):.2f} s")


@contextmanager
def s3_environment() -> Iterator[dict[str, str]]:
    """The environment that leads to a bucket of an S3 server in a process of its own on loopback."""
    from tests.test_every_executor import s3_store

    with s3_store() as found:
        yield found


def measure_plan(rounds: int) -> None:
    """A plan of many made steps behind S3, from an empty cache and again."""
    from tests.tiny_models import own_cache, tickets, write_csv

    with tempfile.TemporaryDirectory() as name, s3_environment() as bucket:
        folder = Path(name)
        write_csv(folder / "tickets.csv", tickets(40))
        source = "kind: csv, path: tickets.csv, prompt: message, answer: category"
        steps = "".join(
            f"  data{n}: {{kind: prepare, source: {{{source}, limit: {11 + n // 8}}}, split: {{test: {1 + n % 8}}}}}\n"
            for n in range(STEPS)
        )
        (folder / "recipe.yaml").write_text(f"luthier: 1\nname: many\nsteps:\n{steps}")
        shared = {
            **os.environ,
            **bucket,
            "LUTHIER_STORE": f"{bucket['STORES']}/many",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        made = run_luthier(folder, {**shared, "LUTHIER_CACHE": own_cache(folder / "first")}, "run", ".")
        print(f"made {STEPS} steps in {made:.1f} s", flush=True)
        fresh, again = [], []
        for turn in range(rounds):
            environment = {**shared, "LUTHIER_CACHE": own_cache(folder / f"cache{turn}")}
            fresh.append(run_luthier(folder, environment, "plan", "."))
            again.append(run_luthier(folder, environment, "plan", "."))
            print(f"plan {turn + 1}: empty cache {fresh[-1]:.2f} s, again {again[-1]:.2f} s", flush=True)
        show("plan_200_cached_s3", statistics.median(fresh), PLAN_S, "s", f"again {statistics.median(again):.2f} s")


def measure_rows(rounds: int, documents: int) -> None:
    """Documents through operators by two workers of Ray, in turn with two processes."""
    from ray_cluster import ray_cluster, why_no_ray
    from tests.tiny_models import own_cache

    if reason := why_no_ray():
        print(f"not measured: {reason}", flush=True)
        return
    with tempfile.TemporaryDirectory() as name, ray_cluster(cpus=2) as url:
        folder = Path(name)
        words = ["order", "parcel", "invoice", "refund", "account", "password", "delivery", "address"]
        with (folder / "documents.csv").open("w", encoding="utf-8") as file:
            file.write("prompt,answer\n")
            for number in range(documents):
                text = " ".join(words[(number * place + place) % 8] for place in range(1, 60))
                file.write(f"{number} {text} mail{number}@example.org,{words[number % 8]}\n")
        source = "{kind: csv, path: documents.csv, prompt: prompt, answer: answer}"
        ops = "[{kind: normalize}, {kind: pii}, {kind: quality, action: flag}, {kind: language}]"
        text = f"luthier: 1\nname: rows\nsteps:\n  data: {{kind: prepare, source: {source}, ops: {ops}}}\n"
        (folder / "recipe.yaml").write_text(text)
        environment = {**os.environ, "LUTHIER_CACHE": own_cache(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
        variables = {name: environment[name] for name in ("LUTHIER_CACHE", "PYTHONPATH")}
        settings = {"kind": "ray", "address": url, "env": variables, "python": sys.executable, "poll_s": 0.1}
        places = {"ray": json.dumps({**settings, "workers": 2}), "processes": "local"}
        found: dict[str, list[float]] = {place: [] for place in places}
        for turn in range(rounds):
            for place, on in places.items():
                run_luthier(folder, environment, "run", ".", "--on", on, f"seed={turn * 2 + (place == 'ray')}")
                (path,) = (folder / ".luthier" / "artifacts").glob("*/timing.json")
                found[place].append(json.loads(path.read_text())["seconds"])
                shutil.rmtree(folder / ".luthier")
                print(f"{place} {turn + 1}: {documents / found[place][-1]:,.0f} documents/s", flush=True)
        ratio = statistics.median(found["processes"]) / statistics.median(found["ray"])
        show("ray_two_workers_of_two_processes", ratio, ROWS_RATIO, "ratio", f"{documents:,} documents")


def show_cost() -> None:
    """The cost model beside what others published, and what a training of one size costs on each machine."""
    from luthier.models.machine_cost import build_pretraining_workload, estimate_on, read_machines

    recompute = {"true": True, "false": False, "": None}
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    with (HERE / "published_mfu.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["parameters"]) < LEAST_PARAMETERS:
                continue
            workload = build_pretraining_workload(
                int(row["parameters"]), int(row["layers"]), int(row["hidden_size"]),
                sequence_tokens=int(row["sequence_tokens"]), step_tokens=float(row["step_tokens"]),
                microbatch_tokens=int(row["microbatch_tokens"]) if row["microbatch_tokens"] else None,
                recompute=recompute[row["recompute"]],
            )  # fmt: skip
            mfu = estimate_on(workload, row["machine"], int(row["count"])).mfu
            error = mfu / float(row["mfu"]) - 1
            text = f"{row['model']:13} {row['count']:>5} {row['machine']:10} {row['sequence_tokens']:>6} tokens a row"
            text += f"   published {float(row['mfu']):.3f}   estimated {mfu:.3f}   {error:+.1%}"
            group = f"{row['use']}, {row['measured_as']}, {row['source'].split(',')[0].split(' ')[0]}"
            found[group].append((error, text))
    for group, rows in found.items():
        errors = [abs(error) for error, _ in rows]
        print(f"\n{group}: {len(rows)} trainings of 1B to 70B, median error {statistics.median(errors):.1%}, "
              f"largest {max(errors):.1%}, within 20 %: {sum(error < WITHIN for error in errors)}")  # fmt: skip
        for _, text in sorted(rows, key=lambda row: -abs(row[0])):
            print(f"  {text}")
    held_out = [abs(error) for group, rows in found.items() if group.startswith("held out, mfu") for error, _ in rows]
    show(
        "cost_model_held_out_within_20_percent", sum(error < WITHIN for error in held_out) / len(held_out), 1.0, "share"
    )
    show("cost_model_held_out_median_error", statistics.median(held_out), WITHIN, "share")
    print("\nAll weights of a 7B model, 1,000 steps of 4M tokens in rows of 4,096:")
    workload = build_pretraining_workload(6_738_000_000, 32, 4096, sequence_tokens=4096, step_tokens=4.2e6, steps=1000)
    print(
        f"  {'machine':11} {'count':>5} {'hours':>9} {'low':>9} {'high':>9} {'MFU':>5} {'GB':>4} {'fits':>5} "
        f"{'USD':>10}"
    )
    for machine in read_machines():
        for count in (1, 8, 64, 512, 4096):
            one = estimate_on(workload, machine, count)
            hours = [f"{seconds / 3600:9.1f}" for seconds in (one.seconds, one.seconds_low, one.seconds_high)]
            print(
                f"  {machine:11} {count:5} {' '.join(hours)} {one.mfu:5.2f} {one.memory / 1e9:4.0f} {one.fits!s:>5} "
                f"{one.money:10,.0f}"
            )


def main() -> None:
    """Measure what is asked for, or all, and print a line of JSON for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds instead of seven")
    parser.add_argument("--only", choices=["order", "plan", "rows", "cost", "ranks"])
    options = parser.parse_args()
    rounds = 2 if options.quick else 7
    measures: dict[str, Any] = {
        "cost": show_cost, "order": lambda: measure_order(rounds), "plan": lambda: measure_plan(rounds),
        "rows": lambda: measure_rows(2 if options.quick else 5, 20_000 if options.quick else 200_000),
        "ranks": lambda: run_ranks(quick=options.quick),
    }  # fmt: skip
    for name, measure in measures.items():
        if options.only in (None, name):
            print(f"== {name}", flush=True)
            measure()


def run_ranks(*, quick: bool) -> None:
    """The figures of several processes, where their benchmark is here."""
    if not (HERE / "scale_ranks.py").exists():
        print("not measured: there is no scale_ranks.py", flush=True)
        return
    subprocess.run([sys.executable, str(HERE / "scale_ranks.py"), *(["--quick"] if quick else [])], check=True)


if __name__ == "__main__":
    main()
