"""A Ray cluster of this machine alone, for tests: its own daemons with their own folder and ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from luthier.core.system.packages import is_installed
from luthier.core.system.process import is_process_gone, unique_process_name_of


def why_no_ray() -> str:
    """Why no cluster can be had here; empty where one can."""
    if is_installed("ray") and is_installed("opencensus"):
        return ""
    return "Ray is not installed: pip install 'ray[default]'"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def ray_cluster(*, nodes: int = 1, cpus: int = 1) -> Iterator[str]:
    """The address of the dashboard of a cluster of so many nodes, all of them processes of this machine."""
    port, dashboard, client = _free_port(), _free_port(), _free_port()
    common = ["--num-cpus", str(cpus), "--object-store-memory", "80000000", "--min-worker-port", "0"]
    common += ["--max-worker-port", "0", "--disable-usage-stats", "--dashboard-agent-listen-port", "0", "--block"]
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_DOCKER_CPU_WARNING": "1"}
    daemons: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # sockets have short names

        def start(*words: str) -> None:
            log = (Path(folder) / f"start-{len(daemons)}.log").open("wb")
            command = [str(Path(sys.executable).with_name("ray")), "start", *words, *common]
            daemons.append(subprocess.Popen(command, env=quiet, stdout=log, stderr=log, start_new_session=True))
            log.close()

        head = ["--head", "--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", f"{folder}/s"]
        head += ["--ray-client-server-port", str(client), "--dashboard-host", "127.0.0.1"]
        try:
            start(*head, "--dashboard-port", str(dashboard), "--include-dashboard", "true")
            url = f"http://127.0.0.1:{dashboard}"
            _await_nodes(url, 1, Path(folder))
            for _ in range(nodes - 1):
                start("--address", f"127.0.0.1:{port}", "--node-ip-address", "127.0.0.1")
            _await_nodes(url, nodes, Path(folder))
            yield url
        finally:
            _end(daemons)


def _await_nodes(url: str, count: int, folder: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError, ValueError, KeyError, TypeError):
            nodes = httpx.get(f"{url}/nodes?view=summary").json()["data"]["summary"]
            if sum(node["raylet"].get("state") == "ALIVE" for node in nodes) >= count:
                return
        time.sleep(0.3)
    logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("start-*.log"))
    raise RuntimeError(f"no Ray after 90 s:\n{logs}")


def _end(daemons: list[subprocess.Popen[bytes]]) -> None:
    """End the daemons, and wait until all that they started is gone."""
    for daemon in reversed(daemons):
        names = [unique_process_name_of(number) for number in _children(daemon.pid)]
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(is_process_gone(name) for name in names):
            time.sleep(0.1)


def _children(parent: int) -> list[int]:
    """The processes that descend from one."""
    done = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = {int(line.split()[0]): int(line.split()[1]) for line in done.stdout.splitlines()}
    found = [parent]
    for number in found:
        found += [child for child, above in parents.items() if above == number]
    return found[1:]
