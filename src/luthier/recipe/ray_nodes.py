"""The driver of a Ray job over several nodes: one actor on each runs `luthier make TASK --processes N` there.

Ray holds all nodes free at once (a placement group); torchrun's variables tell each its place. When the job is told to
stop, so is each node; when one node fails, the others are told to stop.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

from luthier.core.system.process import python_command
from luthier.recipe.torchrun import MASTER_PORT

_STOP_S = 110.0
"""Seconds that a node has to write a checkpoint after it is told to stop."""
_LOOK_S = 0.5


class NodeProcess:
    """The process of a step on one node; an actor of Ray."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def find_address(self) -> tuple[str, int]:
        """The address of this node, and a port that is free on it."""
        import ray

        with socket.socket() as one:
            one.bind(("", 0))
            port = int(one.getsockname()[1])
        return ray.util.get_node_ip_address(), port or MASTER_PORT

    def run(self, words: list[str], variables: dict[str, str]) -> int:
        """Run a command to its end; returns its exit code."""
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._process = subprocess.Popen(words, env={**environment, **variables})  # noqa: S603  # our own command
        return self._process.wait()

    def stop(self) -> None:
        """Tell the command to stop."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)


def run_on_nodes(task: str, nodes: int, processes: int, resources: dict[str, float]) -> int:
    """Run a task on so many nodes of the cluster of this job; returns the first exit code that is not 0."""
    import ray

    ray.init(log_to_driver=True)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: _set(stopped, frame))
    group = ray.util.placement_group([dict(resources) for _ in range(nodes)], strategy="STRICT_SPREAD")
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
    custom = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
    options = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0), "resources": custom}
    strategies = [strategy(placement_group=group, placement_group_bundle_index=rank) for rank in range(nodes)]
    actor = ray.remote(NodeProcess)
    actors = [actor.options(**options, max_concurrency=2, scheduling_strategy=bundle).remote() for bundle in strategies]
    address, port = _await(ray, [actors[0].find_address.remote()], stopped)[0] or ("", 0)
    words = python_command("-m", "luthier", "make", "--processes", str(processes), task)
    shared = {"PET_NNODES": str(nodes), "PET_MASTER_ADDR": str(address), "PET_MASTER_PORT": str(port)}
    if stopped.is_set():
        return 130
    runs = [entry.run.remote(words, {**shared, "PET_NODE_RANK": str(rank)}) for rank, entry in enumerate(actors)]
    codes = _await(ray, runs, stopped)
    if None in codes:
        ray.get([entry.stop.remote() for entry in actors])
        ray.wait(runs, num_returns=nodes, timeout=_STOP_S)
    return 130 if stopped.is_set() else next((code for code in codes if code), 0)


def _set(event: threading.Event, _frame: FrameType | None) -> None:
    event.set()


def _await(ray: Any, waiting: list[Any], stopped: threading.Event) -> list[Any]:
    """The results in order; None for those that were not awaited, because one failed or the job is told to stop."""
    found = dict[Any, Any]()
    while len(found) < len(waiting) and not stopped.is_set():
        done, _ = ray.wait([entry for entry in waiting if entry not in found], timeout=_LOOK_S)
        found |= {entry: ray.get(entry) for entry in done}
        if any(isinstance(value, int) and value for value in found.values()):
            break
    return [found.get(entry) for entry in waiting]


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--cpus", type=float, default=1.0)
    parser.add_argument("--gpus", type=float, default=0.0)
    parser.add_argument("--resource", action="append", default=[])
    parser.add_argument("task")
    namespace = parser.parse_args()
    resources = {"CPU": namespace.cpus, **({"GPU": namespace.gpus} if namespace.gpus else {})}
    for text in namespace.resource:
        name, _, amount = text.partition("=")
        resources[name] = float(amount)
    return run_on_nodes(namespace.task, namespace.nodes, namespace.processes, resources)


if __name__ == "__main__":
    sys.exit(main())
