"""Several processes that train one model: two ranks of one thread beside two packs at once in one process, the exchange
of gradients beside gloo's all-reduce, and rows a CPU-second beside TRL on accelerate's DDP.

    python benchmarks/scale_ranks.py [--quick] [--only FIGURE …]

SmolLM2-135M with LoRA r 16 in bf16, rows of GSM8K (little shared) and BANKING77 (a shared prompt), eight a step. CPU
seconds are those of all processes, and hardly depend on what else the machine does. Every measurement is a process of
its own; what two figures need is measured once. Needs `../shared/data`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]

from tune import DATA, Work, _device, _examples  # noqa: E402  # after the path

BATCH, WARM, SEED = 8, 1, 0
NUMBERS = 4_884_480
"""Numbers of LoRA r 16 on all linear layers of SmolLM2-135M."""
ALL = ("two_ranks_over_two_lanes", "bytes_over_bound", "tree_over_all_reduce", "gsm8k_over_ddp", "banking_over_ddp")
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure what was asked for, and print one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, one round")
    parser.add_argument("--only", nargs="+", default=ALL, choices=ALL, help="these figures")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(WORKERS[options.work[0]](*map(json.loads, options.work[1:]))))
        return
    if not DATA.is_dir():
        sys.exit(f"the real data is not beside the repository: {DATA}")
    steps, rounds = (3, 1) if options.quick else (8, 3)
    for figure in measure(options.only, steps, rounds):
        print(json.dumps({**figure, "load": round(os.getloadavg()[0], 1), "device": _device()}), flush=True)


def measure(names: list[str], steps: int, rounds: int) -> Iterator[dict[str, Any]]:
    """The figures of some names."""
    if {"bytes_over_bound", "tree_over_all_reduce"} & set(names):
        found = run_ranks("exchange", 20)[0]
        yield {"figure": "bytes_over_bound", "value": round(found["bytes"] / (4 * NUMBERS), 4), "goal": 1.02}
        ratios = {unit: round(found[f"tree_{unit}"] / found[f"all_reduce_{unit}"], 3) for unit in ("s", "cpu_s")}
        yield {"figure": "tree_over_all_reduce", "value": ratios["s"], "of_cpu": ratios["cpu_s"], "goal": 1.1, **found}
    ours: dict[str, dict[str, float]] = {}
    if "two_ranks_over_two_lanes" in names:
        ratios_of = {"rows_per_s": list[float](), "rows_per_cpu_s": list[float]()}
        for _ in range(rounds):
            lanes, ours["gsm8k"] = (run("ours", "gsm8k", steps, parts, parts, threads=2) for parts in (1, 2))
            print(f"  two lanes {lanes}; two ranks {ours['gsm8k']}", flush=True)
            for unit, some in ratios_of.items():
                some.append(ours["gsm8k"][unit] / lanes[unit])
        value, of_cpu = (round(statistics.median(some), 3) for some in ratios_of.values())
        yield {"figure": "two_ranks_over_two_lanes", "value": value, "of_cpu": of_cpu, "goal": 0.95}
    for rows, goal in (("gsm8k", 5), ("banking", 15)):
        if f"{rows}_over_ddp" not in names:
            continue
        own = ours.get(rows) or run("ours", rows, steps, 2, 2, threads=2)
        peers = run_ranks("ddp", rows, 2 if rounds == 1 else 3)
        theirs = statistics.mean(one["rows_per_cpu_s"] for one in peers)
        print(f"  ours {own}; each rank of DDP {peers}", flush=True)
        yield {"figure": f"{rows}_over_ddp", "value": round(own["rows_per_cpu_s"] / theirs, 2), "goal": goal}


def run(worker: str, *arguments: Any, threads: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    return _finish(_start([worker, *map(json.dumps, arguments)], threads, {}))


def run_ranks(worker: str, *arguments: Any) -> list[dict[str, Any]]:
    """One measurement in two processes of one thread that know of each other."""
    from watching import free_port

    job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = ({**job, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    return [_finish(one) for one in [_start([worker, *map(json.dumps, arguments)], 1, rank) for rank in ranks]]


def _start(arguments: list[str], threads: int, environment: dict[str, str]) -> subprocess.Popen[str]:
    count = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "GOMP_SPINCOUNT": "1000"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--work", *arguments], env={**os.environ, **count, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{process.args!r} failed:\n{err[-4000:]}")
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


def cpu_s_of_all() -> float:
    """CPU seconds of this process and of those that it started."""
    children = [Path(f"/proc/{child}/stat") for one in Path("/proc/self/task").iterdir()
                for child in (one / "children").read_text().split()]  # fmt: skip
    ticks = [stat.read_text().rpartition(")")[2].split()[11:13] for stat in children]
    return time.process_time() + sum(int(user) + int(system) for user, system in ticks) / _TICKS


class Watch(list[Any]):
    """Notes when each step ended."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[tuple[float, float]] = []

    def append(self, event: Any) -> None:
        if event.kind == "progress" and "loss" in event.measures:
            self.times.append((cpu_s_of_all(), time.perf_counter()))


def train(rows: str, steps: int, parts: int, processes: int) -> dict[str, Any]:
    """Train by the step that recipes use; rows a second of what came after the warm-up."""
    from luthier.recipe.models import open_base_model
    from luthier.recipe.workspace import Workspace
    from luthier.tune.steps.tune import Tune
    from tuning import make_env

    watch = Watch()
    with tempfile.TemporaryDirectory() as scratch:
        env = replace(make_env(Path(scratch), list(_examples(Work(rows, BATCH), steps))), heard=watch)
        step = Tune.model_validate(
            {"data": "data", "technique": {"kind": "lora", "r": 16}, "batch_size": BATCH, "learning_rate": 2e-4,
             "max_steps": steps + WARM, "dtype": "bfloat16", "on_loss_spike": "off", "parts": parts,
             "processes": processes}
        )  # fmt: skip
        env.tune(step, SEED, open_base_model(Workspace.open_current(), "smollm2-135m-instruct"))
    cpu, wall = (watch.times[-1][at] - watch.times[WARM - 1][at] for at in (0, 1))
    return {"rows_per_cpu_s": round(BATCH * steps / cpu, 3), "rows_per_s": round(BATCH * steps / wall, 3)}


def exchange(times: int) -> dict[str, Any]:
    """Seconds of a sum over two ranks along the tree and by gloo's all-reduce, in turns, by the clock and of this
    process; bytes sent by it."""
    import torch
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    from luthier.tune.training.group import TorchRankGroup
    from luthier.tune.training.mixed_precision import GradientSum
    from luthier.tune.training.parts import reduce_over_ranks

    sent: list[int] = []

    class Counting(TorchRankGroup):
        def exchange(self, outgoing: Any, incoming: Any, wait_s: float = 60.0) -> None:
            sent.extend(value.nbytes for value in outgoing.values())
            super().exchange(outgoing, incoming, wait_s)

    def clocks() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
    store = TCPStore("127.0.0.1", port, is_master=rank == 0, wait_for_workers=False)
    group = Counting(PrefixStore("bench", store), rank, 2, loopback=True)
    spans, weight, own = [range(1), range(1, 2)], torch.zeros(NUMBERS), GradientSum([torch.zeros(NUMBERS)])
    sent.clear()
    took: dict[str, list[tuple[float, float]]] = {"tree": [], "all_reduce": []}
    for _ in range(times):
        own.views[0].normal_()
        group._gloo.allreduce([torch.zeros(1)]).wait()  # both begin at once
        start = clocks()
        reduce_over_ranks(group, spans, own, [True, True], lambda: GradientSum([weight]), 60.0)
        end = clocks()
        took["tree"].append((end[0] - start[0], end[1] - start[1]))
        group._gloo.allreduce([torch.zeros(1)]).wait()
        start = clocks()
        group._gloo.allreduce([own.flat[torch.float32]]).wait()
        end = clocks()
        took["all_reduce"].append((end[0] - start[0], end[1] - start[1]))
    group.close()
    medians = {
        f"{name}_{unit}": round(statistics.median(one[at] for one in some), 4)
        for name, some in took.items()
        for at, unit in enumerate(("s", "cpu_s"))
    }
    return {"bytes": sum(sent) / times, **medians}


def train_by_ddp(rows: str, steps: int) -> dict[str, Any]:
    """One rank of TRL's `SFTTrainer`, which accelerate wraps in DDP, with half of the rows of each step."""
    from tune_trl import theirs

    return theirs([rows, BATCH // 2, "bfloat16", "lora"], steps + 1, 1)


WORKERS: dict[str, Callable[..., dict[str, Any]]] = {"ours": train, "exchange": exchange, "ddp": train_by_ddp}

if __name__ == "__main__":
    main()
