"""The processes of one step on one node: torchrun starts them, and gives each its place in the group.

Of several nodes, each scheduler says in its own way which node this is. Slurm starts all processes itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from luthier.core.errors import InputError
from luthier.core.system.process import python_command

MASTER_PORT = 29500
_SAGEMAKER = Path("/opt/ml/input/config/resourceconfig.json")


class NodeGroup(NamedTuple):
    """The nodes of a job, seen from one of them."""

    nodes: int = 1
    rank: int = 0
    """Which node this is, from 0."""
    address: str = "127.0.0.1"
    """The first node, as the others reach it."""
    port: int = MASTER_PORT


def find_node_group(environment: Mapping[str, str], sagemaker: Path = _SAGEMAKER) -> NodeGroup:
    """Which of how many nodes this is: by torchrun's own variables (Kubernetes, Ray), SkyPilot's, those of Vertex AI,
    or the file of SageMaker; one node when none of them is there."""
    port = int(environment.get("PET_MASTER_PORT", MASTER_PORT))
    if "PET_NODE_RANK" in environment:
        nodes, rank = int(environment["PET_NNODES"]), int(environment["PET_NODE_RANK"])
        return NodeGroup(nodes, rank, environment["PET_MASTER_ADDR"], port)
    if addresses := environment.get("SKYPILOT_NODE_IPS", "").split():
        return NodeGroup(len(addresses), int(environment["SKYPILOT_NODE_RANK"]), addresses[0], port)
    if spec := environment.get("CLUSTER_SPEC"):
        found = json.loads(spec)
        pools: dict[str, list[str]] = found["cluster"]
        before = [host for pool in sorted(pools) if pool < found["task"]["type"] for host in pools[pool]]
        first = pools[min(pools)][0].rpartition(":")[0]
        return NodeGroup(sum(map(len, pools.values())), len(before) + int(found["task"]["index"]), first, port)
    if sagemaker.exists():
        found = json.loads(sagemaker.read_text(encoding="utf-8"))
        hosts = sorted(found["hosts"], key=_number_of)
        return NodeGroup(len(hosts), hosts.index(found["current_host"]), hosts[0], port)
    return NodeGroup()


def _number_of(host: str) -> int:
    """The number of a host of SageMaker: 10 of `algo-10`."""
    number = host.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdigit() else 0


def start_ranks(task: str, processes: int) -> NoReturn:
    """Become torchrun, which runs `luthier make TASK` in so many processes here, each with its place in the group."""
    if task == "-":
        raise InputError("several processes cannot read one standard input", hint="put the task into a file")
    group = find_node_group(os.environ)
    options = {
        "nnodes": group.nodes,
        "node-rank": group.rank,
        "nproc-per-node": processes,
        "master-addr": group.address,
        "master-port": group.port if group.nodes > 1 else 0,
        "max-restarts": 0,
    }
    if group.nodes == 1:
        options |= {"rdzv-backend": "c10d", "rdzv-endpoint": "localhost:0"}  # a free port
    words = [f"--{name}={value}" for name, value in options.items()]
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONSAFEPATH": "1"}
    command = python_command("-m", "torch.distributed.run", *words, "-m", "luthier", "make", task)
    os.execve(sys.executable, command, environment)  # noqa: S606  # this very Python, no shell
